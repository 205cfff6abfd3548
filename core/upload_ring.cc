#include "core/upload_ring.h"

#include <algorithm>
#include <cstring>

namespace lockstep::core {

void UploadRing::upload(const DeviceStream& stream, void* to, const void* from, std::size_t bytes) {
  if (bytes == 0) return;
  Piece& piece = pieces_[next_];
  next_ = (next_ + 1) % kPieces;
  if (piece.used) {
    piece.copied.wait();
  } else {
    piece.copied = DeviceEvent(device_);
    piece.used = true;
  }
  if (piece.memory.bytes() < bytes) {
    piece.memory = PinnedBuffer(device_, std::max(bytes, 2 * piece.memory.bytes()));
  }
  std::memcpy(piece.memory.data(), from, bytes);
  stream.to_device(to, piece.memory.data(), bytes);
  piece.copied.record(stream);
}

}  // namespace lockstep::core
