#pragma once

#include <array>
#include <cstddef>

#include "core/device_runtime.h"
#include "core/pinned_buffer.h"

namespace lockstep::core {

// Copies from ordinary host memory to a device by way of a ring of pinned pieces, so that neither
// the source has to stay as it is nor the host has to wait for the stream, unless kPieces uploads
// are under way. Pieces grow to the greatest upload. What was uploaded must have arrived before the
// ring is destroyed.
class UploadRing {
 public:
  UploadRing() = default;  // of no device
  explicit UploadRing(DeviceRef device) : device_(device) {}

  void upload(const DeviceStream& stream, void* to, const void* from, std::size_t bytes);

 private:
  static constexpr std::size_t kPieces = 8;

  struct Piece {
    PinnedBuffer memory;
    DeviceEvent copied;
    bool used = false;
  };

  DeviceRef device_;
  std::array<Piece, kPieces> pieces_;
  std::size_t next_ = 0;
};

}  // namespace lockstep::core
