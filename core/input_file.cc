#include "core/input_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/error.h"
#include "core/hash.h"

namespace lockstep::core {

namespace {

[[noreturn]] void fail_to_read(const std::filesystem::path& path, const std::string& reason) {
  throw Error(ErrorKind::kData,
              fmt::format("{}: expected a readable file, found: {}", path.string(), reason));
}

std::string reason_of(int error) {
  return std::generic_category().message(error);
}

}  // namespace

InputFile::InputFile(const std::filesystem::path& path) : path_(path) {
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor_ < 0) fail_to_read(path, reason_of(errno));
  struct stat status {};
  const int failure = ::fstat(descriptor_, &status) == 0 ? 0 : errno;
  if (failure == 0 && S_ISREG(status.st_mode)) {
    size_ = static_cast<std::uint64_t>(status.st_size);
    return;
  }
  close();
  if (failure != 0) fail_to_read(path, reason_of(failure));
  if (S_ISDIR(status.st_mode)) fail_to_read(path, "a directory");
  fail_to_read(path, "not a regular file (pipe, socket or device)");
}

InputFile::~InputFile() {
  close();
}

InputFile::InputFile(InputFile&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      size_(std::exchange(other.size_, 0)) {}

InputFile& InputFile::operator=(InputFile&& other) noexcept {
  if (this == &other) return *this;
  close();
  path_ = std::move(other.path_);
  descriptor_ = std::exchange(other.descriptor_, -1);
  size_ = std::exchange(other.size_, 0);
  return *this;
}

void InputFile::close() noexcept {
  if (descriptor_ >= 0) ::close(descriptor_);
  descriptor_ = -1;
}

void InputFile::read(std::uint64_t offset, std::span<std::byte> out) const {
  LOCKSTEP_CHECK(offset <= size_ && out.size() <= size_ - offset, "bytes [{}, +{}) of {} in {}",
                 offset, out.size(), size_, path_.string());
  while (!out.empty()) {
    const ssize_t n = ::pread(descriptor_, out.data(), out.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0)
      throw Error(ErrorKind::kData, fmt::format("{}: cannot be read at byte {}: {}", path_.string(),
                                                offset, reason_of(errno)));
    if (n == 0)
      throw Error(ErrorKind::kData,
                  fmt::format("{}: expected {} bytes, as when it was opened, found only {}: the "
                              "file was cut short while it was in use; restore it, and replace "
                              "files in use by rename instead of writing into them",
                              path_.string(), size_, offset));
    offset += static_cast<std::uint64_t>(n);
    out = out.subspan(static_cast<std::size_t>(n));
  }
}

std::string InputFile::text() const {
  std::string text(size_, '\0');
  read(0, std::as_writable_bytes(std::span(text)));
  return text;
}

std::uint64_t InputFile::hash() const {
  StreamingHash hash;
  visit(0, size_, [&](auto piece) { hash.update(piece.data(), piece.size()); });
  return hash.digest();
}

void InputFile::visit(std::uint64_t begin, std::uint64_t end,
                      const std::function<void(std::span<const std::byte>)>& visit) const {
  std::vector<std::byte> piece(
      static_cast<std::size_t>(std::min<std::uint64_t>(kPieceBytes, end - begin)));
  while (begin < end) {
    const auto n = static_cast<std::size_t>(std::min<std::uint64_t>(piece.size(), end - begin));
    read(begin, std::span(piece).first(n));
    visit(std::span(piece).first(n));
    begin += n;
  }
}

std::string read_text(const std::filesystem::path& path) {
  return InputFile(path).text();
}

}  // namespace lockstep::core
