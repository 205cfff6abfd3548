#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>

namespace lockstep::core {

// A regular file that is read at any place; move-only. Nothing of it is mapped into memory, so that
// a file which somebody cuts short meanwhile is an error that names it, where a mapping would kill
// the process with SIGBUS. A file replaced by rename stays the one that was opened.
//
// Thread-safe once constructed.
class InputFile {
 public:
  // Throws Error(kData), naming the path and the reason, unless it is a readable regular file.
  explicit InputFile(const std::filesystem::path& path);
  ~InputFile();
  InputFile(InputFile&& other) noexcept;
  InputFile& operator=(InputFile&& other) noexcept;

  const std::filesystem::path& path() const { return path_; }
  std::uint64_t size() const { return size_; }  // when it was opened

  // The bytes [offset, offset + out.size()), which lie within size(). Throws Error(kData) when the
  // file has become shorter or cannot be read.
  void read(std::uint64_t offset, std::span<std::byte> out) const;

  std::string text() const;    // all of it
  std::uint64_t hash() const;  // XXH3-64 of all of it

  // Calls `visit` with [begin, end), piece after piece of at most kPieceBytes.
  static constexpr std::size_t kPieceBytes = 1 << 20;
  void visit(std::uint64_t begin, std::uint64_t end,
             const std::function<void(std::span<const std::byte>)>& visit) const;

 private:
  void close() noexcept;

  std::filesystem::path path_;
  int descriptor_ = -1;
  std::uint64_t size_ = 0;
};

// The whole of a small file, by its path.
std::string read_text(const std::filesystem::path& path);

}  // namespace lockstep::core
