#include "core/pinned_buffer.h"

#include <fmt/format.h>

#include <cstdlib>
#include <new>
#include <utility>

namespace lockstep::core {

PinnedBuffer::PinnedBuffer(DeviceRef device, std::size_t bytes) : device_(device), bytes_(bytes) {
  if (bytes == 0) return;
  if (device.on_cpu()) {
    data_ = static_cast<std::byte*>(std::malloc(bytes));
    if (data_ == nullptr) throw std::bad_alloc();
    return;
  }
  void* memory = nullptr;
  check_device(*device.runtime, device.runtime->allocate_pinned(bytes, &memory),
               fmt::format("cannot allocate {:.1f} MiB of pinned host memory",
                           static_cast<double>(bytes) / 1048576.0));
  data_ = static_cast<std::byte*>(memory);
}

void PinnedBuffer::swap(PinnedBuffer& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
}

void PinnedBuffer::release() noexcept {
  if (data_ == nullptr) return;
  if (device_.on_cpu()) {
    std::free(data_);
  } else {
    device_.runtime->release_pinned(data_);
  }
  data_ = nullptr;
}

}  // namespace lockstep::core
