#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "core/device_runtime.h"
#include "core/tensor.h"

namespace lockstep::core {

// Counts what one rank allocates, by named region ("parameters", "gradients", "optimizer",
// "activations", "workspace", "communication", ...): the same names that `lockstep plan` predicts.
// Thread-safe.
class MemoryTracker {
 public:
  struct Usage {
    std::size_t current = 0;  // bytes
    std::size_t peak = 0;     // bytes, this region's own peak
  };

  // From now on add() refuses what would bring the sum over regions above `bytes`; 0: no limit.
  void set_limit(std::size_t bytes);

  // Throws Error(kOutOfMemory) naming region, size and limit when the limit forbids it; nothing is
  // counted then.
  void add(const std::string& region, std::size_t bytes);
  void remove(const std::string& region, std::size_t bytes);

  std::size_t current() const;  // bytes, all regions
  std::size_t peak() const;     // bytes, the greatest sum over regions at any time
  std::map<std::string, Usage> regions() const;

 private:
  mutable std::mutex mutex_;
  std::map<std::string, Usage> regions_;
  std::size_t current_ = 0;
  std::size_t peak_ = 0;
  std::size_t limit_ = 0;  // 0: none
};

// How much of `wanted` bytes of fresh memory the system would let this process map right now:
// `wanted`, or less where RLIMIT_AS, RLIMIT_DATA or the kernel's overcommit rule forbid it. Nothing
// is kept. That the system allows it does not mean that there are as many free pages.
std::size_t mappable_bytes(std::size_t wanted);

// Owning, move-only, zero-filled memory: of the CPU, aligned to 64 bytes (to 2 MiB, with huge pages
// advised, from 4 MiB on), or of a device, aligned to 256 bytes. Counted in the tracker, which must outlive the buffer. Throws
// Error(kOutOfMemory) naming region and size.
class Buffer {
 public:
  Buffer() = default;
  Buffer(MemoryTracker& tracker, std::string region, std::size_t bytes);
  // Of `device`; of the CPU where that is what it refers to.
  Buffer(MemoryTracker& tracker, std::string region, std::size_t bytes, DeviceRef device);
  ~Buffer() { release(); }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    Buffer moved(std::move(other));
    swap(moved);
    return *this;
  }

  void* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  bool empty() const { return data_ == nullptr; }
  Device device() const { return device_.device; }

  // A view of `shape` elements of `dtype` beginning `byte_offset` bytes in; checked against the
  // size.
  TensorView view(DType dtype, Shape shape, std::size_t byte_offset = 0) const;

 private:
  void swap(Buffer& other) noexcept;
  void release() noexcept;
  void allocate_on_device();

  MemoryTracker* tracker_ = nullptr;
  std::string region_;
  DeviceRef device_;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace lockstep::core
