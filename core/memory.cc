#include "core/memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace lockstep::core {

namespace {

double mebibytes(std::size_t bytes) {
  return static_cast<double>(bytes) / 1048576.0;
}

}  // namespace

void MemoryTracker::set_limit(std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  limit_ = bytes;
}

void MemoryTracker::add(const std::string& region, std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  if (limit_ > 0 && current_ + bytes > limit_) {
    throw Error(ErrorKind::kOutOfMemory,
                fmt::format("cannot allocate {:.1f} MiB for {}: {:.1f} MiB are allocated already, "
                            "and memory.limit_mib is {:.1f}",
                            mebibytes(bytes), region, mebibytes(current_), mebibytes(limit_)));
  }
  Usage& usage = regions_[region];
  usage.current += bytes;
  usage.peak = std::max(usage.peak, usage.current);
  current_ += bytes;
  peak_ = std::max(peak_, current_);
}

void MemoryTracker::remove(const std::string& region, std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  regions_[region].current -= bytes;
  current_ -= bytes;
}

std::size_t MemoryTracker::current() const {
  const std::lock_guard lock(mutex_);
  return current_;
}

std::size_t MemoryTracker::peak() const {
  const std::lock_guard lock(mutex_);
  return peak_;
}

std::map<std::string, MemoryTracker::Usage> MemoryTracker::regions() const {
  const std::lock_guard lock(mutex_);
  return regions_;
}

namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::size_t mapped_bytes(std::size_t bytes) {
  const std::size_t unit = bytes >= 2 * kHugePage ? kHugePage : 4096;
  return (bytes + unit - 1) / unit * unit;
}

void* map_memory(std::size_t bytes) {
  const std::size_t size = mapped_bytes(bytes);
  if (size < 2 * kHugePage) {
    void* p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? nullptr : p;
  }
  // Map one huge page more and cut the ends off, so that the range begins on a huge-page boundary.
  void* raw =
      mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) return nullptr;
  const auto begin = reinterpret_cast<std::uintptr_t>(raw);
  const std::uintptr_t aligned = (begin + kHugePage - 1) / kHugePage * kHugePage;
  if (aligned > begin) munmap(raw, aligned - begin);
  const std::size_t tail = begin + kHugePage - aligned;
  if (tail > 0) munmap(reinterpret_cast<void*>(aligned + size), tail);
  void* p = reinterpret_cast<void*>(aligned);
  madvise(p, size, MADV_HUGEPAGE);
  return p;
}

bool can_map(std::size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return false;
  munmap(p, bytes);
  return true;
}

}  // namespace

std::size_t mappable_bytes(std::size_t wanted) {
  constexpr std::size_t kResolution = std::size_t{1} << 20;
  if (wanted == 0 || can_map(wanted)) return wanted;
  std::size_t fits = 0;
  std::size_t too_much = wanted;
  while (too_much - fits > kResolution) {
    const std::size_t middle = fits + (too_much - fits) / 2;
    (can_map(middle) ? fits : too_much) = middle;
  }
  return fits;
}

Buffer::Buffer(MemoryTracker& tracker, std::string region, std::size_t bytes)
    : tracker_(&tracker), region_(std::move(region)), bytes_(bytes) {
  if (bytes == 0) return;
  tracker.add(region_, bytes_);
  data_ = map_memory(bytes);
  if (data_ != nullptr) return;
  const int reason = errno;
  tracker.remove(region_, bytes_);
  throw Error(
      ErrorKind::kOutOfMemory,
      fmt::format("cannot allocate {:.1f} MiB for {} ({:.1f} MiB already allocated): {}",
                  mebibytes(bytes), region_, mebibytes(tracker.current()), std::strerror(reason)));
}

Buffer::Buffer(MemoryTracker& tracker, std::string region, std::size_t bytes, DeviceRef device)
    : Buffer(device.on_cpu() ? Buffer(tracker, std::move(region), bytes) : Buffer()) {
  if (device.on_cpu()) return;
  tracker_ = &tracker;
  region_ = std::move(region);
  bytes_ = bytes;
  device_ = device;
  if (bytes > 0) allocate_on_device();
}

void Buffer::allocate_on_device() {
  tracker_->add(region_, bytes_);
  const DeviceRuntime& runtime = *device_.runtime;
  int code = runtime.allocate(device_.device.index, bytes_, &data_);
  if (code == 0) {
    code = runtime.fill(data_, 0, bytes_, nullptr);
    if (code == 0) return;
    runtime.release(data_);
  }
  data_ = nullptr;
  tracker_->remove(region_, bytes_);
  check_device(runtime, code,
               fmt::format("cannot allocate {:.1f} MiB for {} on {} ({:.1f} MiB already allocated)",
                           mebibytes(bytes_), region_, to_string(device_.device),
                           mebibytes(tracker_->current())));
}

TensorView Buffer::view(DType dtype, Shape shape, std::size_t byte_offset) const {
  const std::size_t need = static_cast<std::size_t>(shape.elements()) * size_of(dtype);
  LOCKSTEP_CHECK_LE(byte_offset + need, bytes_, "view into buffer " + region_);
  return {static_cast<std::byte*>(data_) + byte_offset, dtype, shape, device_.device};
}

void Buffer::swap(Buffer& other) noexcept {
  std::swap(tracker_, other.tracker_);
  std::swap(region_, other.region_);
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
}

void Buffer::release() noexcept {
  if (data_ == nullptr) return;
  if (device_.on_cpu()) {
    munmap(data_, mapped_bytes(bytes_));
  } else {
    device_.runtime->release(data_);
  }
  tracker_->remove(region_, bytes_);
  data_ = nullptr;
}

}  // namespace lockstep::core
