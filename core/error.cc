#include "core/error.h"

namespace lockstep::core {

const char* describe(ErrorKind kind) noexcept {
  switch (kind) {
    case ErrorKind::kInternal:
      return "internal error";
    case ErrorKind::kConfig:
      return "configuration error";
    case ErrorKind::kData:
      return "data error";
    case ErrorKind::kDiverged:
      return "training diverged";
    case ErrorKind::kCommunication:
      return "communication error";
    case ErrorKind::kOutOfMemory:
      return "out of memory";
    case ErrorKind::kStopped:
      return "stopped on request";
  }
  return "internal error";
}

}  // namespace lockstep::core
