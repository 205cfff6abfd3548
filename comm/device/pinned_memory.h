#pragma once

#include <cstddef>

#include "core/device_runtime.h"

namespace lockstep::comm {

// Owning, not movable: host memory that a device's copies reach directly. Grows, and then forgets
// what was in it.
class PinnedMemory {
 public:
  explicit PinnedMemory(const core::DeviceRuntime& runtime) : runtime_(runtime) {}
  ~PinnedMemory() { release(); }
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;

  std::byte* data() const { return static_cast<std::byte*>(data_); }
  std::size_t bytes() const { return bytes_; }

  // At least `bytes` bytes. Throws Error(kOutOfMemory). Nothing may be using it.
  void reserve(std::size_t bytes);

 private:
  void release() noexcept;

  const core::DeviceRuntime& runtime_;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace lockstep::comm
