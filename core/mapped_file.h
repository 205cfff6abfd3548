#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace lockstep::core {

// A whole file mapped read-only into memory; move-only. Pages are read when touched, so opening is
// cheap however large the file is. A file cut short by somebody else while it is mapped kills the
// process with SIGBUS at the lost pages, as with every mapping: files in use are replaced by
// rename, never rewritten.
//
// Thread-safe once constructed (nothing changes).
class MappedFile {
 public:
  // Throws Error(kData), naming the path and the reason, unless it is a readable regular file.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  const std::filesystem::path& path() const { return path_; }
  std::size_t size() const { return size_; }
  const std::byte* data() const { return data_; }  // null for an empty file
  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  void unmap() noexcept;

  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace lockstep::core
