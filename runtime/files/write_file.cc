#include "runtime/files/write_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "core/error.h"
#include "core/system_error.h"

namespace lockstep::runtime {

namespace {

[[noreturn]] void fail(const char* what, const std::string& path) {
  throw core::Error(core::ErrorKind::kData,
                    fmt::format("cannot {} {}: {}", what, path, core::describe_errno(errno)));
}

class Descriptor {
 public:
  Descriptor(const std::string& path, int flags)
      : fd_(open(path.c_str(), flags | O_CLOEXEC, 0644)) {
    if (fd_ < 0) fail("open", path);
  }
  ~Descriptor() { close(fd_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

}  // namespace

void write_synced(const std::string& path, const std::string& text) {
  const Descriptor file(path, O_WRONLY | O_CREAT | O_TRUNC);
  std::size_t written = 0;
  while (written < text.size()) {
    const ssize_t n = write(file.get(), text.data() + written, text.size() - written);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail("write", path);
    written += static_cast<std::size_t>(n);
  }
  if (fsync(file.get()) != 0) fail("sync", path);
}

void replace_file(const std::string& path, const std::string& text) {
  const std::string temporary = path + ".tmp";
  write_synced(temporary, text);
  if (rename(temporary.c_str(), path.c_str()) != 0) fail("rename to", path);
  sync_path(std::filesystem::absolute(path).parent_path().string());
}

void sync_path(const std::string& path) {
  const Descriptor file(path, O_RDONLY);
  if (fsync(file.get()) != 0) fail("sync", path);
}

}  // namespace lockstep::runtime
