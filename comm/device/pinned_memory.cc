#include "comm/device/pinned_memory.h"

#include <fmt/format.h>

namespace lockstep::comm {

void PinnedMemory::reserve(std::size_t bytes) {
  if (bytes <= bytes_) return;
  release();
  core::check_device(
      runtime_, runtime_.allocate_pinned(bytes, &data_),
      fmt::format("cannot allocate {} bytes of pinned host memory for communication", bytes));
  bytes_ = bytes;
}

void PinnedMemory::release() noexcept {
  if (data_ != nullptr) runtime_.release_pinned(data_);
  data_ = nullptr;
  bytes_ = 0;
}

}  // namespace lockstep::comm
