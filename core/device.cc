#include "core/device.h"

namespace lockstep::core {

std::string to_string(Device device) {
  return device.type == DeviceType::kCpu ? "cpu" : "cuda:" + std::to_string(device.index);
}

}  // namespace lockstep::core
