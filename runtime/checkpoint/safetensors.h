#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/dtype.h"
#include "core/input_file.h"

// The safetensors format, read strictly: 8 bytes little-endian length of the header; the header, a
// JSON object {"name": {"dtype", "shape", "data_offsets": [begin, end]}, ..., "__metadata__":
// {text: text}}, possibly padded with spaces; then the data, to which offsets are relative. Tensors
// cover the data without a hole and without overlap. Values are little-endian, row-major.
namespace lockstep::runtime {

inline constexpr std::uint64_t kLargestSafetensorsHeader = 100'000'000;  // as Hugging Face's reader

struct StoredTensor {
  std::string name;
  std::string stored_type;           // "F32", "BF16", "I8", ...: as the file says
  std::optional<core::DType> dtype;  // unless no core::DType corresponds
  std::vector<std::int64_t> shape;   // empty: a scalar
  std::uint64_t elements = 0;
  std::uint64_t offset = 0;  // of its values in the file
  std::uint64_t bytes = 0;
};

std::string shape_text(const std::vector<std::int64_t>& shape);  // "[768, 2304]"

// One file, its header checked completely when opened. Thread-safe.
class SafetensorsFile {
 public:
  // Throws Error(kData) naming the file, the tensor where there is one, what was expected and what
  // was found.
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_.path(); }
  const std::vector<StoredTensor>& tensors() const { return tensors_; }  // in order of the data
  const StoredTensor* find(const std::string& name) const;               // null if absent
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  // Copies a tensor of this file, converted to fp32 (from F64, F32, F16 or BF16), elements
  // [first, first + out.size()) in row-major order. Throws Error(kData) for other types.
  void read(const StoredTensor& tensor, std::uint64_t first, std::span<float> out) const;
  void read(const StoredTensor& tensor, std::span<float> out) const { read(tensor, 0, out); }
  // Copies a tensor of this file as it is stored: tensor.bytes bytes.
  void read_stored(const StoredTensor& tensor, void* out) const;

  // Throws Error(kData) with the file's name in front.
  [[noreturn]] void fail(const std::string& message) const;

 private:
  void parse_header(std::string_view text, std::uint64_t data_begin);
  void check_coverage(std::uint64_t data_begin);

  core::InputFile file_;
  std::vector<StoredTensor> tensors_;
  std::unordered_map<std::string, std::size_t> by_name_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace lockstep::runtime
