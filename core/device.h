#pragma once

#include <cstdint>
#include <string>

namespace lockstep::core {

enum class DeviceType : std::uint8_t { kCpu, kCuda };

// Where memory lives and work runs. index is 0 for the CPU, the CUDA device ordinal otherwise.
struct Device {
  DeviceType type = DeviceType::kCpu;
  std::int32_t index = 0;

  bool operator==(const Device&) const = default;
};

std::string to_string(Device device);  // "cpu", "cuda:0"

}  // namespace lockstep::core
