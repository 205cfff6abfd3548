#include "runtime/checkpoint/huggingface_weights.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string_view>
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
          const models::ModelConfig& config, const LoadOptions& options)
      : files_(files), table_(table), config_(config), options_(options) {
    for (ParameterId id = 0; id < table.size(); ++id) {
      names_.push_back(models::huggingface_name(config, table[id]));
      const std::string bare = models::bare_huggingface_name(config.family, names_.back().name);
      LOCKSTEP_CHECK(ids_.emplace(bare, id).second, "two parameters named {}", bare);
    }
    found_.resize(names_.size());
    for (const SafetensorsFile& file : files)
      for (const StoredTensor& tensor : file.tensors())
        assign(file, tensor);
    promote_copies();
    check_parameters();
    if (!problems_.empty()) refuse();
    for (const auto& [copy, original] : copies_)
      check_equal(copy, original);
  }

  const Found& found(ParameterId id) const { return found_[static_cast<std::size_t>(id)]; }
  bool transposed(ParameterId id) const { return names_[static_cast<std::size_t>(id)].transposed; }
  LoadedWeights loaded() && { return std::move(loaded_); }

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
    loaded_.passed_over.push_back(tensor.name);
  }

  // A tied file may hold its embedding under the name of the output alone.
  void promote_copies() {
    std::erase_if(copies_, [&](const auto& copy) {
      Found& original = found_[static_cast<std::size_t>(copy.second)];
      if (original.tensor != nullptr) return false;
      original = copy.first;
      std::erase(loaded_.passed_over, copy.first.tensor->name);
      return true;
    });
  }

  // Whether rows may be cut off or added: one row is one token, or one position.
  bool resizes(ParameterId id) const {
    constexpr std::string_view kRows[] = {"embeddings.token.weight", "embeddings.position.weight",
                                          "head.weight", "head.bias"};
    return options_.resize &&
           std::find(std::begin(kRows), std::end(kRows), table_[id].name) != std::end(kRows);
  }

  bool may_be_new(ParameterId id) const {
    const std::string& name = table_[id].name;
    return options_.new_head &&
           (name.starts_with("head.pooler.") || name.starts_with("head.classifier."));
  }

  static bool differs_in_rows(std::vector<std::int64_t> shape, std::vector<std::int64_t> wanted) {
    if (shape.empty() || shape.size() != wanted.size()) return false;
    shape.front() = wanted.front();
    return shape == wanted;
  }

  void check_parameters() {
    for (ParameterId id = 0; id < table_.size(); ++id) {
      const models::HuggingFaceName& name = names_[static_cast<std::size_t>(id)];
      const StoredTensor* tensor = found(id).tensor;
      const std::vector<std::int64_t> wanted = stored_shape(table_[id], name.transposed);
      if (tensor == nullptr && may_be_new(id)) {
        loaded_.fresh.push_back(table_[id].name);
        continue;
      }
      if (tensor != nullptr && tensor->shape != wanted && resizes(id) &&
          differs_in_rows(tensor->shape, wanted)) {
        loaded_.resized.push_back(fmt::format("{} {} to {}", tensor->name,
                                              shape_text(tensor->shape), shape_text(wanted)));
      } else if (tensor == nullptr) {
        const bool output = table_[id].name == "head.weight";
        problems_.push_back(
            fmt::format("missing: {} {}{}", name.name, shape_text(wanted),
                        output ? " (a file without it has model.tie_embeddings: true)" : ""));
      } else if (tensor->shape != wanted) {
        problems_.push_back(fmt::format("shape: {} is {}, expected {}", tensor->name,
                                        shape_text(tensor->shape), shape_text(wanted)));
      }
      if (tensor != nullptr && (!tensor->dtype || !core::is_floating(*tensor->dtype))) {
        problems_.push_back(fmt::format("type: {} is {}, expected F64, F32, F16 or BF16",
                                        tensor->name, tensor->stored_type));
      }
    }
  }

  [[noreturn]] void refuse() const {
    const std::size_t listed = std::min(problems_.size(), kListed);
    std::string more;
    if (listed < problems_.size()) more = fmt::format("; and {} more", problems_.size() - listed);
    fail(
        files_.empty() ? fs::path("(no file)") : files_.front().path(),
        fmt::format("expected the {} parameters of the configured model, found differences: {}{}; "
                    "check the keys of the model: section against the file{}",
                    table_.size(),
                    fmt::join(problems_.begin(),
                              problems_.begin() + static_cast<std::ptrdiff_t>(listed), "; "),
                    more, rows_alone() ? " (--set model.init_resize=true cuts or pads them)" : ""));
  }

  // Whether every problem is one that resizing would mend.
  bool rows_alone() const {
    std::size_t mendable = 0;
    for (ParameterId id = 0; id < table_.size(); ++id) {
      const StoredTensor* tensor = found(id).tensor;
      const std::vector<std::int64_t> wanted =
          stored_shape(table_[id], names_[static_cast<std::size_t>(id)].transposed);
      const bool rows = table_[id].role == models::ParameterRole::kEmbedding ||
                        table_[id].name == "head.weight" || table_[id].name == "head.bias";
      if (rows && tensor != nullptr && tensor->shape != wanted &&
          differs_in_rows(tensor->shape, wanted))
        ++mendable;
    }
    return mendable > 0 && mendable == problems_.size();
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
  const LoadOptions& options_;
  std::vector<models::HuggingFaceName> names_;         // by ParameterId
  std::unordered_map<std::string, ParameterId> ids_;   // by bare name
  std::vector<Found> found_;                           // by ParameterId
  std::vector<std::pair<Found, ParameterId>> copies_;  // tied tensors stored a second time
  LoadedWeights loaded_;
  std::vector<std::string> problems_;
};

std::vector<TensorToWrite> tensors_to_write(const models::ParameterTable& table,
                                            const models::ModelConfig& config,
                                            const WeightsFormat& format) {
  std::vector<TensorToWrite> tensors;
  const auto add = [&](const models::ParameterSpec& spec) {
    const models::HuggingFaceName name = models::huggingface_name(config, spec);
    tensors.push_back({name.name, format.dtype, stored_shape(spec, name.transposed)});
  };
  for (const ParameterId id : format.parameters)
    add(table[id]);
  if (format.parameters.empty()) std::for_each(table.specs().begin(), table.specs().end(), add);
  return tensors;
}

void check_finite(const SafetensorsFile& file, const StoredTensor& tensor,
                  std::span<const float> values) {
  const auto bad =
      std::find_if(values.begin(), values.end(), [](float v) { return !std::isfinite(v); });
  if (bad != values.end())
    file.fail(
        fmt::format("tensor \"{}\": expected finite values, found {} at element {}; weights "
                    "of a run that went wrong cannot be trained on",
                    tensor.name, *bad, bad - values.begin()));
}

// The stored values in canonical layout and of the configured number of rows.
class ParameterReader {
 public:
  ParameterReader(const models::ParameterTable& table, std::uint64_t seed)
      : table_(table), seed_(seed) {}

  std::span<const float> read(ParameterId id, const Found& found, bool transposed) {
    const models::ParameterSpec& spec = table_[id];
    if (found.tensor == nullptr) return initial(spec);
    stored_.resize(found.tensor->elements);
    found.file->read(*found.tensor, stored_);
    check_finite(*found.file, *found.tensor, stored_);
    if (transposed) {
      canonical_.resize(stored_.size());
      transpose(stored_.data(), found.tensor->shape[0], found.tensor->shape[1], canonical_.data());
      return canonical_;
    }
    if (static_cast<std::int64_t>(stored_.size()) == spec.elements()) return stored_;
    initial(spec);
    std::copy_n(stored_.begin(), std::min(stored_.size(), canonical_.size()), canonical_.begin());
    return canonical_;
  }

 private:
  std::span<const float> initial(const models::ParameterSpec& spec) {
    canonical_.resize(static_cast<std::size_t>(spec.elements()));
    models::initialize(spec, seed_, canonical_.data());
    return canonical_;
  }

  const models::ParameterTable& table_;
  std::uint64_t seed_;
  std::vector<float> stored_;
  std::vector<float> canonical_;
};

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
    const bool pickled = fs::exists(path / "pytorch_model.bin", ignored) ||
                         fs::exists(path / "pytorch_model.bin.index.json", ignored);
    fail(path, fmt::format("expected {} or {} in this directory, found {}", kModelFile, kIndexFile,
                           pickled ? "pytorch_model.bin, a pickle, which is not read: load it with "
                                     "Transformers and save_pretrained() it"
                                   : "neither"));
  }
  if (path.extension() == ".json") return open_index(path);
  std::vector<SafetensorsFile> files;
  files.emplace_back(path);
  return files;
}

LoadedWeights match_parameters(const std::vector<SafetensorsFile>& files,
                               const models::ParameterTable& table,
                               const models::ModelConfig& config, const LoadOptions& options) {
  return Matcher(files, table, config, options).loaded();
}

LoadedWeights load_parameters(const std::vector<SafetensorsFile>& files,
                              const models::ParameterTable& table,
                              const models::ModelConfig& config, const ParameterSink& sink,
                              const LoadOptions& options) {
  Matcher matcher(files, table, config, options);
  ParameterReader reader(table, options.seed);
  for (ParameterId id = 0; id < table.size(); ++id)
    sink(id, reader.read(id, matcher.found(id), matcher.transposed(id)));
  return std::move(matcher).loaded();
}

HuggingFaceWriter::HuggingFaceWriter(const fs::path& path, const models::ParameterTable& table,
                                     const models::ModelConfig& config,
                                     std::map<std::string, std::string> metadata,
                                     WeightsFormat format)
    : table_(table),
      config_(config),
      dtype_(format.dtype),
      writer_(path, tensors_to_write(table, config, format), with_format(std::move(metadata))) {}

void HuggingFaceWriter::write(ParameterId id, std::span<const float> values) {
  const models::ParameterSpec& spec = table_[id];
  LOCKSTEP_CHECK_EQ(static_cast<std::int64_t>(values.size()), spec.elements(),
                    "values of " + spec.name);
  const models::HuggingFaceName name = models::huggingface_name(config_, spec);
  if (name.transposed) {
    transposed_.resize(values.size());
    transpose(values.data(), spec.shape[0], spec.shape[1], transposed_.data());
    values = transposed_;
  }
  if (dtype_ == core::DType::kF32) {
    writer_.write(name.name, values);
    return;
  }
  // Largest finite value of fp16; bf16 reaches as far as fp32 but for rounding at the very end.
  const float most = dtype_ == core::DType::kF16 ? 65504.0F : 3.38e38F;
  const auto beyond =
      std::find_if(values.begin(), values.end(), [&](float v) { return std::abs(v) > most; });
  if (beyond != values.end())
    throw core::Error(core::ErrorKind::kData,
                      fmt::format("{} holds {}, beyond the range of {}; export another dtype",
                                  spec.name, *beyond, core::name_of(dtype_)));
  converted_.resize(values.size() * core::size_of(dtype_));
  core::convert(core::DType::kF32, values.data(), dtype_, converted_.data(), values.size());
  writer_.write(name.name, converted_);
}

}  // namespace lockstep::runtime
