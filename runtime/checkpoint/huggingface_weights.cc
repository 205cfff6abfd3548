#include "runtime/checkpoint/huggingface_weights.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <unordered_map>
#include <utility>

#include "core/check.h"
#include "core/error.h"
#include "models/huggingface_names.h"

namespace lockstep::runtime {

namespace {

namespace fs = std::filesystem;
using models::ForeignTensor;
using models::ParameterId;

constexpr const char* kModelFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr std::size_t kListed = 20;  // names in one message

[[noreturn]] void fail(const fs::path& path, const std::string& message) {
  throw core::Error(core::ErrorKind::kData, fmt::format("{}: {}", path.string(), message));
}

// The file names that an index mentions, and which tensor each must hold.
std::map<std::string, std::vector<std::string>> read_index(const fs::path& path) {
  const auto index = nlohmann::json::parse(core::read_text(path), nullptr, false);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object())
    fail(path, "expected a JSON object with a weight_map, found something else");
  std::map<std::string, std::vector<std::string>> tensors_of;
  for (const auto& [tensor, name] : index["weight_map"].items()) {
    const std::string plain = name.is_string() ? name.get<std::string>() : "";
    if (plain.empty() || fs::path(plain).filename() != plain || plain == "." || plain == "..")
      fail(path, fmt::format("weight_map: expected the name of a file beside it for tensor "
                             "\"{}\", found {}",
                             tensor,
                             name.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)));
    tensors_of[plain].push_back(tensor);
  }
  if (tensors_of.empty()) fail(path, "expected files in weight_map, found none");
  return tensors_of;
}

std::vector<SafetensorsFile> open_index(const fs::path& path) {
  std::vector<SafetensorsFile> files;
  for (const auto& [name, tensors] : read_index(path)) {
    files.emplace_back(path.parent_path() / name);
    for (const std::string& tensor : tensors)
      if (files.back().find(tensor) == nullptr)
        files.back().fail(fmt::format("expected tensor \"{}\" as {} says, found none", tensor,
                                      path.filename().string()));
  }
  return files;
}

// Rows and columns of what is stored -> its transpose; [rows, cols] to [cols, rows].
void transpose(const float* from, std::int64_t rows, std::int64_t cols, float* to) {
  constexpr std::int64_t kTile = 32;
  for (std::int64_t r0 = 0; r0 < rows; r0 += kTile)
    for (std::int64_t c0 = 0; c0 < cols; c0 += kTile)
      for (std::int64_t c = c0; c < std::min(c0 + kTile, cols); ++c)
        for (std::int64_t r = r0; r < std::min(r0 + kTile, rows); ++r)
          to[c * rows + r] = from[r * cols + c];
}

std::vector<std::int64_t> stored_shape(const models::ParameterSpec& spec, bool transposed) {
  std::vector<std::int64_t> shape;
  for (int i = 0; i < spec.shape.rank(); ++i)
    shape.push_back(spec.shape[i]);
  if (transposed) std::reverse(shape.begin(), shape.end());
  return shape;
}

struct Found {
  const SafetensorsFile* file = nullptr;
  const StoredTensor* tensor = nullptr;
};

// Assigns the tensors of the files to the parameters of the table and gathers what is wrong.
class Matcher {
 public:
  Matcher(const std::vector<SafetensorsFile>& files, const models::ParameterTable& table,
          const models::ModelConfig& config)
      : files_(files), table_(table), config_(config) {
    for (ParameterId id = 0; id < table.size(); ++id) {
      names_.push_back(models::huggingface_name(config, table[id]));
      const std::string bare = models::bare_huggingface_name(config.family, names_.back().name);
      LOCKSTEP_CHECK(ids_.emplace(bare, id).second, "two parameters named {}", bare);
    }
    found_.resize(names_.size());
    for (const SafetensorsFile& file : files)
      for (const StoredTensor& tensor : file.tensors())
        assign(file, tensor);
    check_parameters();
    if (!problems_.empty()) refuse();
    for (const auto& [copy, original] : copies_)
      check_equal(copy, original);
  }

  const Found& found(ParameterId id) const { return found_[static_cast<std::size_t>(id)]; }
  bool transposed(ParameterId id) const { return names_[static_cast<std::size_t>(id)].transposed; }
  std::vector<std::string> passed_over() && { return std::move(passed_over_); }

 private:
  void assign(const SafetensorsFile& file, const StoredTensor& tensor) {
    const std::string bare = models::bare_huggingface_name(config_.family, tensor.name);
    if (const auto id = ids_.find(bare); id != ids_.end()) {
      Found& place = found_[static_cast<std::size_t>(id->second)];
      if (place.tensor != nullptr)
        problems_.push_back(fmt::format("double: {} and {}", place.tensor->name, tensor.name));
      place = {&file, &tensor};
      return;
    }
    switch (models::classify_foreign(config_, bare)) {
      case ForeignTensor::kUnknown:
        problems_.push_back("unknown: " + tensor.name);
        return;
      case ForeignTensor::kTiedOutput:
        copies_.emplace_back(Found{&file, &tensor}, table_.find("embeddings.token.weight"));
        break;
      case ForeignTensor::kTiedOutputBias:
        copies_.emplace_back(Found{&file, &tensor}, table_.find("head.bias"));
        break;
      case ForeignTensor::kBuffer:
      case ForeignTensor::kUnusedHead:
        break;
    }
    passed_over_.push_back(tensor.name);
  }

  void check_parameters() {
    for (ParameterId id = 0; id < table_.size(); ++id) {
      const models::HuggingFaceName& name = names_[static_cast<std::size_t>(id)];
      const StoredTensor* tensor = found(id).tensor;
      const std::vector<std::int64_t> wanted = stored_shape(table_[id], name.transposed);
      if (tensor == nullptr) {
        const bool output = table_[id].name == "head.weight";
        problems_.push_back(
            fmt::format("missing: {} {}{}", name.name, shape_text(wanted),
                        output ? " (a file without it has model.tie_embeddings: true)" : ""));
      } else if (tensor->shape != wanted) {
        problems_.push_back(fmt::format("shape: {} is {}, expected {}", tensor->name,
                                        shape_text(tensor->shape), shape_text(wanted)));
      } else if (!tensor->dtype || !core::is_floating(*tensor->dtype)) {
        problems_.push_back(fmt::format("type: {} is {}, expected F64, F32, F16 or BF16",
                                        tensor->name, tensor->stored_type));
      }
    }
  }

  [[noreturn]] void refuse() const {
    const std::size_t listed = std::min(problems_.size(), kListed);
    std::string more;
    if (listed < problems_.size()) more = fmt::format("; and {} more", problems_.size() - listed);
    fail(files_.empty() ? fs::path("(no file)") : files_.front().path(),
         fmt::format("expected the {} parameters of the configured model, found differences: {}{}; "
                     "check the keys of the model: section against the file",
                     table_.size(),
                     fmt::join(problems_.begin(),
                               problems_.begin() + static_cast<std::ptrdiff_t>(listed), "; "),
                     more));
  }

  // Compared as fp32 values, row by row, so that the copy may have another floating type.
  static void check_equal(const Found& copy, const Found& original) {
    const bool same_shape = copy.tensor->shape == original.tensor->shape;
    constexpr std::uint64_t kChunk = 1 << 16;
    std::vector<float> a(kChunk);
    std::vector<float> b(kChunk);
    bool equal = same_shape;
    for (std::uint64_t i = 0; equal && i < copy.tensor->elements; i += kChunk) {
      const std::size_t n = std::min(kChunk, copy.tensor->elements - i);
      copy.file->read(*copy.tensor, i, std::span(a).first(n));
      original.file->read(*original.tensor, i, std::span(b).first(n));
      equal = std::equal(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(n), b.begin());
    }
    if (!equal)
      copy.file->fail(
          fmt::format("tensor \"{}\": expected a copy of \"{}\", to which the "
                      "configured model ties it, found other values; set "
                      "model.tie_embeddings: false to keep both",
                      copy.tensor->name, original.tensor->name));
  }
  void check_equal(const Found& copy, ParameterId original) const {
    check_equal(copy, found(original));
  }

  const std::vector<SafetensorsFile>& files_;
  const models::ParameterTable& table_;
  const models::ModelConfig& config_;
  std::vector<models::HuggingFaceName> names_;         // by ParameterId
  std::unordered_map<std::string, ParameterId> ids_;   // by bare name
  std::vector<Found> found_;                           // by ParameterId
  std::vector<std::pair<Found, ParameterId>> copies_;  // tied tensors stored a second time
  std::vector<std::string> passed_over_;
  std::vector<std::string> problems_;
};

std::vector<TensorToWrite> tensors_to_write(const models::ParameterTable& table,
                                            const models::ModelConfig& config) {
  std::vector<TensorToWrite> tensors;
  for (const models::ParameterSpec& spec : table.specs()) {
    const models::HuggingFaceName name = models::huggingface_name(config, spec);
    tensors.push_back({name.name, core::DType::kF32, stored_shape(spec, name.transposed)});
  }
  return tensors;
}

std::map<std::string, std::string> with_format(std::map<std::string, std::string> metadata) {
  metadata.emplace("format", "pt");
  return metadata;
}

}  // namespace

std::vector<SafetensorsFile> open_weights(const fs::path& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) {
    if (fs::exists(path / kModelFile, ignored)) return open_weights(path / kModelFile);
    if (fs::exists(path / kIndexFile, ignored)) return open_index(path / kIndexFile);
    fail(path,
         fmt::format("expected {} or {} in this directory, found neither", kModelFile, kIndexFile));
  }
  if (path.extension() == ".json") return open_index(path);
  std::vector<SafetensorsFile> files;
  files.emplace_back(path);
  return files;
}

std::vector<std::string> load_parameters(const std::vector<SafetensorsFile>& files,
                                         const models::ParameterTable& table,
                                         const models::ModelConfig& config,
                                         const ParameterSink& sink) {
  Matcher matcher(files, table, config);
  std::vector<float> stored;
  std::vector<float> canonical;
  for (ParameterId id = 0; id < table.size(); ++id) {
    const auto& [file, tensor] = matcher.found(id);
    stored.resize(tensor->elements);
    file->read(*tensor, stored);
    if (matcher.transposed(id)) {
      canonical.resize(stored.size());
      transpose(stored.data(), tensor->shape[0], tensor->shape[1], canonical.data());
      sink(id, canonical);
    } else {
      sink(id, stored);
    }
  }
  return std::move(matcher).passed_over();
}

HuggingFaceWriter::HuggingFaceWriter(const fs::path& path, const models::ParameterTable& table,
                                     const models::ModelConfig& config,
                                     std::map<std::string, std::string> metadata)
    : table_(table),
      config_(config),
      writer_(path, tensors_to_write(table, config), with_format(std::move(metadata))) {}

void HuggingFaceWriter::write(ParameterId id, std::span<const float> values) {
  const models::ParameterSpec& spec = table_[id];
  LOCKSTEP_CHECK_EQ(static_cast<std::int64_t>(values.size()), spec.elements(),
                    "values of " + spec.name);
  const models::HuggingFaceName name = models::huggingface_name(config_, spec);
  if (!name.transposed) {
    writer_.write(name.name, values);
    return;
  }
  transposed_.resize(values.size());
  transpose(values.data(), spec.shape[0], spec.shape[1], transposed_.data());
  writer_.write(name.name, std::span<const float>(transposed_));
}

}  // namespace lockstep::runtime
