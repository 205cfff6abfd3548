#include "coordinator/store/disk_reserve.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace lockstep::coordinator {
namespace {

constexpr std::int64_t kBlock = 512;  // of st_blocks
constexpr std::int64_t kSmallest = 64 << 10;

bool is_occupied(const std::filesystem::path& file) {
  struct stat status {};
  return ::stat(file.c_str(), &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0 &&
         status.st_blocks * kBlock >= status.st_size;
}

}  // namespace

DiskReserve::DiskReserve(std::filesystem::path file) : file_(std::move(file)) {
  held_ = is_occupied(file_);
}

void DiskReserve::release() noexcept {
  ::unlink(file_.c_str());
  held_ = false;
}

bool DiskReserve::make(bool any) noexcept {
  if (held_) return true;
  struct statvfs status {};
  if (::statvfs(file_.parent_path().c_str(), &status) != 0) return held_ = true;
  const auto block = static_cast<std::int64_t>(status.f_frsize);
  std::int64_t size = std::min(kLargest, static_cast<std::int64_t>(status.f_blocks) * block / 8);
  const std::int64_t left = static_cast<std::int64_t>(status.f_bavail) * block;
  while (any && left < size + size / 4 && size / 2 >= kSmallest)
    size /= 2;
  if (left < size + size / 4) return false;
  const int file = ::open(file_.c_str(), O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (file < 0) return held_ = errno != ENOSPC && errno != EDQUOT;
  const int problem = ::posix_fallocate(file, 0, size);
  ::close(file);
  held_ = problem != ENOSPC && problem != EDQUOT;
  if (problem != 0) ::unlink(file_.c_str());
  return held_;
}

}  // namespace lockstep::coordinator
