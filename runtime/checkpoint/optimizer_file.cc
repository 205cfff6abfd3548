#include "runtime/checkpoint/optimizer_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "ops/transfer.h"
#include "runtime/checkpoint/safetensors.h"

namespace lockstep::runtime {

namespace {

std::string base_name(int state, const models::ParameterSpec& spec) {
  if (state == kAverageState) return "ema." + spec.name;
  return fmt::format("state{}.{}", state, spec.name);
}

std::string slice_name(int state, const models::ParameterSpec& spec, const Segment& segment) {
  return fmt::format("{}[{}:{}]", base_name(state, spec), segment.parameter_begin,
                     segment.parameter_begin + segment.count);
}

// A slice in a file.
struct Slice {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  const SafetensorsFile* file = nullptr;
  const StoredTensor* tensor = nullptr;
};

struct SliceName {
  std::string base;
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

bool parse_number(std::string_view text, std::int64_t& value) {
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  return failure == std::errc() && end == text.data() + text.size() && value >= 0;
}

std::optional<SliceName> parse_slice_name(const std::string& name) {
  const std::size_t open = name.rfind('[');
  const std::size_t colon = name.rfind(':');
  if (open == std::string::npos || colon == std::string::npos || colon < open ||
      name.back() != ']') {
    return std::nullopt;
  }
  const std::string_view text = name;
  SliceName parsed{name.substr(0, open)};
  if (!parse_number(text.substr(open + 1, colon - open - 1), parsed.begin) ||
      !parse_number(text.substr(colon + 1, name.size() - colon - 2), parsed.end)) {
    return std::nullopt;
  }
  return parsed;
}

// All slices of the shards, by "state0.<parameter>", in order of their elements.
class SliceIndex {
 public:
  explicit SliceIndex(const std::vector<std::string>& paths) {
    for (const std::string& path : paths)
      files_.emplace_back(path);
    for (const SafetensorsFile& file : files_) {
      for (const StoredTensor& tensor : file.tensors())
        add(file, tensor);
    }
    for (auto& [name, slices] : slices_) {
      std::sort(slices.begin(), slices.end(),
                [](const Slice& a, const Slice& b) { return a.begin < b.begin; });
    }
  }

  bool has(int state, const models::ParameterSpec& spec) const {
    return slices_.contains(base_name(state, spec));
  }
  bool has_any(int state, const models::ParameterTable& table) const {
    return std::any_of(table.specs().begin(), table.specs().end(),
                       [&](const models::ParameterSpec& spec) { return has(state, spec); });
  }

  // The slices of a parameter's state, which cover it once.
  const std::vector<Slice>& find(int state, const models::ParameterSpec& spec) const {
    const std::string name = base_name(state, spec);
    const auto found = slices_.find(name);
    if (found == slices_.end()) {
      files_.front().fail(
          fmt::format("tensor {} is missing: was the tensor frozen? Use another checkpoint", name));
    }
    std::int64_t covered = 0;
    for (const Slice& slice : found->second) {
      if (slice.begin != covered) {
        slice.file->fail(fmt::format("tensor {}: expected a slice from element {} on, found {}",
                                     name, covered, slice.begin));
      }
      covered = slice.end;
    }
    if (covered != spec.elements()) {
      found->second.back().file->fail(fmt::format(
          "tensor {}: expected slices of {} elements, found {}", name, spec.elements(), covered));
    }
    return found->second;
  }

 private:
  void add(const SafetensorsFile& file, const StoredTensor& tensor) {
    const std::optional<SliceName> name = parse_slice_name(tensor.name);
    if (!name || name->end <= name->begin ||
        tensor.elements != static_cast<std::uint64_t>(name->end - name->begin)) {
      file.fail(
          fmt::format("tensor {} {}: expected a name like state0.NAME[0:64] and as many "
                      "elements; use another checkpoint",
                      tensor.name, shape_text(tensor.shape)));
    }
    slices_[name->base].push_back({name->begin, name->end, &file, &tensor});
  }

  std::vector<SafetensorsFile> files_;
  std::map<std::string, std::vector<Slice>> slices_;
};

void read_run(const std::vector<Slice>& slices, const Segment& segment, float* out) {
  const std::int64_t begin = segment.parameter_begin;
  const std::int64_t end = begin + segment.count;
  for (const Slice& slice : slices) {
    const std::int64_t from = std::max(begin, slice.begin);
    const std::int64_t to = std::min(end, slice.end);
    if (from >= to) continue;
    slice.file->read(*slice.tensor, static_cast<std::uint64_t>(from - slice.begin),
                     std::span<float>(out + (from - begin), static_cast<std::size_t>(to - from)));
  }
}

}  // namespace

std::string optimizer_file_name(int rank, int world_size) {
  return fmt::format("optimizer-{:05}-of-{:05}.safetensors", rank, world_size);
}

WrittenFile write_optimizer_file(const std::string& path, const models::ParameterTable& table,
                                 const Snapshot& snapshot, const std::atomic<bool>& abandoned) {
  std::vector<TensorToWrite> tensors;
  std::vector<std::span<const float>> values;
  const BucketLayout& layout = snapshot.layout();
  for (std::size_t i = 0; i < snapshot.states().size(); ++i) {
    for (int b = 0; b < layout.size(); ++b) {
      for (const Segment& segment : layout.owned_segments(b, snapshot.rank())) {
        tensors.push_back({slice_name(snapshot.states()[i], table[segment.parameter], segment),
                           core::DType::kF32,
                           {segment.count}});
        values.push_back(snapshot.state(static_cast<int>(i), b, segment));
      }
    }
  }
  SafetensorsWriter writer(path, tensors);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (abandoned) throw core::Error(core::ErrorKind::kStopped, path + " was given up");
    writer.write(tensors[i].name, values[i]);
  }
  return writer.finish(Durability::kSynced);
}

void read_optimizer_files(const std::vector<std::string>& paths, const std::vector<int>& sources,
                          const models::ParameterTable& table, ModelState& model) {
  const SliceIndex index(paths);
  std::vector<float> values;
  for (const int state : model.saved_states()) {
    if (state == kAverageState && !index.has_any(state, table)) {
      model.start_averages();
      continue;
    }
    const int source = state == kAverageState ? state : sources[static_cast<std::size_t>(state)];
    std::vector<const std::vector<Slice>*> slices;
    for (const models::ParameterSpec& spec : table.specs())
      slices.push_back(source == kNoSource || spec.frozen ? nullptr : &index.find(source, spec));
    for (int b = 0; b < model.layout().size(); ++b) {
      for (const OwnedRun& run : model.owned_runs(b)) {
        values.assign(static_cast<std::size_t>(run.segment.count), 0.0F);
        const auto* from = slices[static_cast<std::size_t>(run.segment.parameter)];
        if (from != nullptr) read_run(*from, run.segment, values.data());
        ops::from_host(model.context(), values.data(), run.state(state));
      }
    }
  }
}

struct StoredAverages::Parts {
  SliceIndex index;
  const models::ParameterTable& table;
};

StoredAverages::StoredAverages(const std::vector<std::string>& paths,
                               const models::ParameterTable& table)
    : parts_(new Parts{SliceIndex(paths), table}) {}

StoredAverages::~StoredAverages() = default;

bool StoredAverages::any() const {
  return parts_->index.has_any(kAverageState, parts_->table);
}

bool StoredAverages::read(models::ParameterId id, std::vector<float>& values) const {
  const models::ParameterSpec& spec = parts_->table[id];
  if (!parts_->index.has(kAverageState, spec)) return false;
  values.resize(static_cast<std::size_t>(spec.elements()));
  read_run(parts_->index.find(kAverageState, spec), {id, 0, 0, spec.elements()}, values.data());
  return true;
}

}  // namespace lockstep::runtime
