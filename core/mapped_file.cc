#include "core/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace lockstep::core {

namespace {

[[noreturn]] void fail_to_read(const std::filesystem::path& path, const std::string& reason) {
  throw Error(ErrorKind::kData,
              fmt::format("{}: expected a readable file, found: {}", path.string(), reason));
}

std::string reason_of(int error) {
  return std::generic_category().message(error);
}

// Closes the descriptor when the scope is left; the mapping does not need it.
struct Descriptor {
  int value;
  ~Descriptor() {
    if (value >= 0) ::close(value);
  }
};

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.value < 0) fail_to_read(path, reason_of(errno));
  struct stat status {};
  if (::fstat(file.value, &status) != 0) fail_to_read(path, reason_of(errno));
  if (S_ISDIR(status.st_mode)) fail_to_read(path, "a directory");
  if (!S_ISREG(status.st_mode)) fail_to_read(path, "not a regular file (pipe, socket or device)");
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ == 0) return;
  void* mapped = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.value, 0);
  if (mapped == MAP_FAILED) fail_to_read(path, "mmap: " + reason_of(errno));
  data_ = static_cast<const std::byte*>(mapped);
}

MappedFile::~MappedFile() {
  unmap();
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this == &other) return *this;
  unmap();
  path_ = std::move(other.path_);
  data_ = std::exchange(other.data_, nullptr);
  size_ = std::exchange(other.size_, 0);
  return *this;
}

void MappedFile::unmap() noexcept {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  data_ = nullptr;
}

}  // namespace lockstep::core
