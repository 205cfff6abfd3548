#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/hash.h"

namespace lockstep::runtime {

struct TensorToWrite {
  std::string name;
  core::DType dtype = core::DType::kF32;
  std::vector<std::int64_t> shape;
};

// Whether a finished file must survive a loss of power.
enum class Durability { kSynced, kCached };

// What was written: for the manifest of a checkpoint.
struct WrittenFile {
  std::uint64_t bytes = 0;
  std::uint64_t hash = 0;  // XXH3-64 of the whole file
};

// Writes a safetensors file tensor by tensor, so that only one tensor need be in memory. The header
// is written first, from the list; data follows in the order of the list, so equal input gives
// equal bytes. The header is padded with spaces to a multiple of 8 bytes; list tensors of wide
// types first to have every tensor aligned.
//
// The file is created (or emptied) at once and is whole only after finish(); writing it under its
// final name safely (temporary name, rename) is the caller's business. Throws Error(kData) naming
// the file and what the system said when it cannot be written.
class SafetensorsWriter {
 public:
  // Names must differ and not be "__metadata__".
  SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorToWrite> tensors,
                    const std::map<std::string, std::string>& metadata = {});
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // The next bytes of the data; a tensor may come in several pieces, of any size. `name` is checked
  // against the list, so that two orders cannot drift apart unseen.
  void write(const std::string& name, std::span<const std::byte> bytes);
  void write(const std::string& name, std::span<const float> values) {
    write(name, std::as_bytes(values));
  }

  // Checks that every tensor was written completely, syncs if asked to, and closes.
  WrittenFile finish(Durability durability);

 private:
  [[noreturn]] void fail(const std::string& what) const;
  std::string make_header(const std::map<std::string, std::string>& metadata) const;
  void write_bytes(const void* data, std::size_t bytes);

  std::filesystem::path path_;
  std::vector<TensorToWrite> tensors_;
  std::vector<std::uint64_t> tensor_bytes_;
  std::size_t current_ = 0;  // the tensor being written
  std::uint64_t written_of_current_ = 0;
  std::uint64_t bytes_ = 0;  // of the file so far
  core::StreamingHash hash_;
  int descriptor_ = -1;
};

}  // namespace lockstep::runtime
