#include "runtime/checkpoint/safetensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>

#include "core/check.h"
#include "core/error.h"

namespace lockstep::runtime {

namespace {

using core::DType;
using nlohmann::json;

constexpr int kDeepestNesting = 3;  // {"name": {"shape": [...]}}
constexpr std::uint64_t kLengthBytes = sizeof(std::uint64_t);

struct StoredType {
  std::string_view name;
  std::uint64_t bytes;
  std::optional<DType> dtype;
};
constexpr std::array<StoredType, 15> kStoredTypes = {{
    {"F64", 8, DType::kF64},
    {"F32", 4, DType::kF32},
    {"F16", 2, DType::kF16},
    {"BF16", 2, DType::kBF16},
    {"I64", 8, DType::kI64},
    {"I32", 4, DType::kI32},
    {"U32", 4, DType::kU32},
    {"U16", 2, DType::kU16},
    {"U8", 1, DType::kU8},
    {"U64", 8, std::nullopt},
    {"I16", 2, std::nullopt},
    {"I8", 1, std::nullopt},
    {"BOOL", 1, std::nullopt},
    {"F8_E4M3", 1, std::nullopt},
    {"F8_E5M2", 1, std::nullopt},
}};

// JSON as text, cut to what fits a message.
std::string excerpt(const json& value) {
  std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() > 80) text = text.substr(0, 77) + "...";
  return text;
}

// Parses the header, noticing what a DOM forgets: duplicate keys and too deep nesting.
json parse_json(const SafetensorsFile& file, std::string_view text) {
  std::vector<std::set<std::string>> keys;
  std::string duplicate;
  bool too_deep = false;
  const auto notice = [&](int depth, json::parse_event_t event, json& value) {
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second)
      duplicate = value.get<std::string>();
    too_deep = too_deep || depth > kDeepestNesting;
    return !too_deep;
  };
  json header = json::parse(text.begin(), text.end(), notice, /*allow_exceptions=*/false);
  if (too_deep) file.fail("the header nests deeper than a safetensors header can");
  if (!duplicate.empty())
    file.fail(fmt::format("expected every name once in the header, found \"{}\" twice", duplicate));
  if (header.is_discarded()) file.fail("expected JSON in the header, found something else");
  if (!header.is_object()) file.fail("expected a JSON object as header, found " + excerpt(header));
  return header;
}

// Reads the header's entry of one tensor.
class EntryReader {
 public:
  EntryReader(const SafetensorsFile& file, const std::string& name, const json& entry)
      : file_(file), name_(name), entry_(entry) {
    if (!entry_.is_object()) fail("expected an object, found " + excerpt(entry_));
    for (const auto& [key, value] : entry_.items())
      if (key != "dtype" && key != "shape" && key != "data_offsets")
        fail(fmt::format("expected dtype, shape and data_offsets, found \"{}\"", key));
  }

  // The data lie in [begin, end) of the file.
  StoredTensor read(std::uint64_t begin, std::uint64_t end) const {
    const StoredType& type = stored_type();
    StoredTensor tensor;
    tensor.name = name_;
    tensor.stored_type = type.name;
    tensor.dtype = type.dtype;
    for (const std::uint64_t extent : counts("shape"))
      tensor.shape.push_back(static_cast<std::int64_t>(extent));
    tensor.elements = elements(tensor.shape);
    std::uint64_t bytes = 0;
    if (__builtin_mul_overflow(tensor.elements, type.bytes, &bytes))
      fail("the shape " + shape_text(tensor.shape) + " is too large");
    const std::vector<std::uint64_t> offsets = counts("data_offsets");
    if (offsets.size() != 2 || offsets[0] > offsets[1])
      fail("data_offsets: expected [begin, end], found " + excerpt(entry_["data_offsets"]));
    if (offsets[1] > end - begin)
      fail(
          fmt::format("expected its data at bytes [{}, {}), found a file with {} bytes of data: "
                      "it is truncated; copy it again",
                      offsets[0], offsets[1], end - begin));
    if (offsets[1] - offsets[0] != bytes)
      fail(fmt::format("expected {} bytes for {} of shape {}, found data_offsets of {} bytes",
                       bytes, type.name, shape_text(tensor.shape), offsets[1] - offsets[0]));
    tensor.offset = begin + offsets[0];
    tensor.bytes = bytes;
    return tensor;
  }

 private:
  [[noreturn]] void fail(const std::string& message) const {
    file_.fail(fmt::format("tensor \"{}\": {}", name_, message));
  }

  const json& field(const char* key) const {
    const auto found = entry_.find(key);
    if (found == entry_.end()) fail(fmt::format("expected a field \"{}\", found none", key));
    return *found;
  }

  const StoredType& stored_type() const {
    const json& value = field("dtype");
    const auto* const type =
        std::find_if(kStoredTypes.begin(), kStoredTypes.end(),
                     [&](const StoredType& t) { return value.is_string() && value == t.name; });
    if (type == kStoredTypes.end())
      fail("dtype: expected F64, F32, F16, BF16 or another known type, found " + excerpt(value));
    return *type;
  }

  std::vector<std::uint64_t> counts(const char* key) const {
    const json& list = field(key);
    std::vector<std::uint64_t> values;
    bool good = list.is_array();
    for (std::size_t i = 0; good && i < list.size(); ++i) {
      good = list[i].is_number_unsigned() && list[i].get<std::uint64_t>() < (1ULL << 62);
      if (good) values.push_back(list[i].get<std::uint64_t>());
    }
    if (!good) fail(fmt::format("{}: expected whole numbers >= 0, found {}", key, excerpt(list)));
    return values;
  }

  std::uint64_t elements(const std::vector<std::int64_t>& shape) const {
    std::uint64_t product = 1;
    for (const std::int64_t extent : shape)
      if (__builtin_mul_overflow(product, static_cast<std::uint64_t>(extent), &product))
        fail("the shape " + shape_text(shape) + " is too large");
    return product;
  }

  const SafetensorsFile& file_;
  const std::string& name_;
  const json& entry_;
};

}  // namespace

std::string shape_text(const std::vector<std::int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(path) {
  if (file_.size() < kLengthBytes)
    fail(
        fmt::format("expected a safetensors file, found {} bytes, fewer than the {} of the "
                    "header's length; copy it again",
                    file_.size(), kLengthBytes));
  constexpr std::string_view kPointer = "version https://git-lfs.github.com/";
  std::string beginning(std::min<std::uint64_t>(file_.size(), kPointer.size()), '\0');
  file_.read(0, std::as_writable_bytes(std::span(beginning)));
  if (beginning == kPointer)
    fail("expected a safetensors file, found a Git LFS pointer to one: run `git lfs pull` there");
  std::uint64_t length = 0;
  file_.read(0, std::as_writable_bytes(std::span(&length, 1)));
  const std::uint64_t rest = file_.size() - kLengthBytes;
  if (length > kLargestSafetensorsHeader)
    fail(
        fmt::format("expected a header of at most {} bytes, found a length of {}: this is no "
                    "safetensors file (or a pickled .bin: convert it first)",
                    kLargestSafetensorsHeader, length));
  if (length > rest)
    fail(
        fmt::format("expected a header of {} bytes, found {} bytes after its length: the file is "
                    "truncated; copy it again",
                    length, rest));
  std::string header(length, '\0');
  file_.read(kLengthBytes, std::as_writable_bytes(std::span(header)));
  parse_header(header, kLengthBytes + length);
  check_coverage(kLengthBytes + length);
}

void SafetensorsFile::fail(const std::string& message) const {
  throw core::Error(core::ErrorKind::kData, fmt::format("{}: {}", path().string(), message));
}

void SafetensorsFile::parse_header(std::string_view text, std::uint64_t data_begin) {
  if (!text.starts_with('{'))
    fail("expected a safetensors header starting with '{', found something else");
  const json object = parse_json(*this, text);
  for (const auto& [name, entry] : object.items()) {
    if (name != "__metadata__") {
      tensors_.push_back(EntryReader(*this, name, entry).read(data_begin, file_.size()));
      continue;
    }
    if (!entry.is_object()) fail("__metadata__: expected an object, found " + excerpt(entry));
    for (const auto& [key, value] : entry.items()) {
      if (!value.is_string())
        fail(fmt::format("__metadata__: expected text for \"{}\", found {}", key, excerpt(value)));
      metadata_[key] = value.get<std::string>();
    }
  }
}

void SafetensorsFile::check_coverage(std::uint64_t data_begin) {
  const std::uint64_t data_bytes = file_.size() - data_begin;
  const auto offset = [&](const StoredTensor& t) { return t.offset - data_begin; };
  std::stable_sort(tensors_.begin(), tensors_.end(),
                   [](const StoredTensor& a, const StoredTensor& b) {
                     return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes);
                   });
  std::uint64_t covered = 0;
  for (const StoredTensor& tensor : tensors_) {
    if (offset(tensor) != covered)
      fail(
          fmt::format("tensor \"{}\": expected its data to start at byte {}, found {}: tensors "
                      "{}",
                      tensor.name, covered, offset(tensor),
                      offset(tensor) < covered ? "overlap" : "leave a hole"));
    covered += tensor.bytes;
  }
  if (covered != data_bytes)
    fail(fmt::format("expected {} bytes of data for the tensors of the header, found {}", covered,
                     data_bytes));
  for (std::size_t i = 0; i < tensors_.size(); ++i)
    by_name_[tensors_[i].name] = i;
}

const StoredTensor* SafetensorsFile::find(const std::string& name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

void SafetensorsFile::read(const StoredTensor& tensor, std::uint64_t first,
                           std::span<float> out) const {
  LOCKSTEP_CHECK(first <= tensor.elements && out.size() <= tensor.elements - first,
                 "elements [{}, +{}) of {} in {}", first, out.size(), tensor.elements, tensor.name);
  if (!tensor.dtype || !core::is_floating(*tensor.dtype))
    fail(fmt::format("tensor \"{}\": expected F64, F32, F16 or BF16 values, found {}", tensor.name,
                     tensor.stored_type));
  constexpr std::size_t kChunk = 1 << 15;
  std::vector<std::byte> buffer(std::min(kChunk, out.size()) * sizeof(double));
  const std::size_t width = core::size_of(*tensor.dtype);
  for (std::size_t done = 0; done < out.size(); done += kChunk) {
    const std::size_t n = std::min(kChunk, out.size() - done);
    file_.read(tensor.offset + (first + done) * width, std::span(buffer).first(n * width));
    core::convert(*tensor.dtype, buffer.data(), DType::kF32, out.data() + done, n);
  }
}

void SafetensorsFile::read_stored(const StoredTensor& tensor, void* out) const {
  file_.read(tensor.offset, {static_cast<std::byte*>(out), tensor.bytes});
}

}  // namespace lockstep::runtime
