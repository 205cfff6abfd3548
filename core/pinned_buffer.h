#pragma once

#include <cstddef>

#include "core/device_runtime.h"

namespace lockstep::core {

// Owning, move-only host memory that copies of a device reach directly, so that they run while the
// host goes on; plain host memory where the device is the CPU. Not zeroed. Throws
// Error(kOutOfMemory).
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  PinnedBuffer(DeviceRef device, std::size_t bytes);
  ~PinnedBuffer() { release(); }
  PinnedBuffer(PinnedBuffer&& other) noexcept { swap(other); }
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    PinnedBuffer moved(std::move(other));
    swap(moved);
    return *this;
  }

  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  void swap(PinnedBuffer& other) noexcept;
  void release() noexcept;

  DeviceRef device_;
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace lockstep::core
