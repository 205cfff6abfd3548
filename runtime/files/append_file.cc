#include "runtime/files/append_file.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <utility>

#include "core/error.h"
#include "core/system_error.h"

namespace lockstep::runtime {

AppendFile::~AppendFile() {
  if (file_ != nullptr) std::fclose(file_);
}

void AppendFile::open(const std::string& path, std::uint64_t keep_bytes) {
  if (file_ != nullptr) std::fclose(std::exchange(file_, nullptr));
  path_ = path;
  if (keep_bytes > 0) {
    std::error_code failure;
    const std::uintmax_t size = std::filesystem::file_size(path, failure);
    if (failure || size < keep_bytes) {
      throw core::Error(core::ErrorKind::kData,
                        fmt::format("{}: expected at least {} bytes, as the checkpoint recorded, "
                                    "found {}; restore the file or start in a new output directory",
                                    path, keep_bytes, failure ? 0 : size));
    }
    std::filesystem::resize_file(path, keep_bytes, failure);
    if (failure) fail("cannot cut");
  }
  file_ = std::fopen(path.c_str(), keep_bytes == 0 ? "wb" : "ab");
  if (file_ == nullptr) fail("cannot open");
}

void AppendFile::write(const std::string& text) {
  if (std::fwrite(text.data(), 1, text.size(), file_) != text.size() || std::fflush(file_) != 0) {
    fail("cannot write");
  }
}

std::uint64_t AppendFile::sync() {
  if (std::fflush(file_) != 0 || fsync(fileno(file_)) != 0) fail("cannot write");
  return static_cast<std::uint64_t>(std::ftell(file_));
}

void AppendFile::fail(const char* what) const {
  throw core::Error(core::ErrorKind::kData,
                    fmt::format("{}: {}: {}", path_, what, core::describe_errno(errno)));
}

}  // namespace lockstep::runtime
