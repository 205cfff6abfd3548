#include "launcher/bench/bench_device.h"

#include <fstream>

#include "core/cuda_module.h"

namespace lockstep::launcher {

namespace {

using ops::Determinism;
using ops::OpContext;

std::unique_ptr<core::MemoryTracker> limited(std::size_t bytes) {
  auto memory = std::make_unique<core::MemoryTracker>();
  memory->set_limit(bytes);
  return memory;
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown processor";
}

}  // namespace

BenchDevice BenchDevice::cpu(int threads, std::size_t memory_bytes) {
  BenchDevice device;
  device.memory_ = limited(memory_bytes);
  device.context_ = std::make_unique<OpContext>(threads, *device.memory_);
  return device;
}

BenchDevice BenchDevice::cuda(int threads, std::size_t memory_bytes, Determinism determinism) {
  const core::CudaModule module = core::load_cuda_module();
  const core::DeviceRef ref = core::open_device(module.runtime(), 0);
  return {ref, ops::cuda_op_bodies(module), threads, memory_bytes, determinism};
}

BenchDevice::BenchDevice(core::DeviceRef device, const ops::OpBodies& bodies, int threads,
                         std::size_t memory_bytes, Determinism determinism)
    : memory_(limited(memory_bytes)),
      context_(std::make_unique<OpContext>(threads, *memory_, device, bodies, determinism)) {}

std::string name_of_device(core::DeviceRef device) {
  if (device.on_cpu()) return processor_name();
  core::DeviceProperties properties;
  core::check_device(*device.runtime, device.runtime->properties(device.device.index, &properties),
                     "asking for the device's name");
  return properties.name;
}

double datasheet_peak(const std::string& device_name, core::DType dtype) {
  const bool half = dtype == core::DType::kBF16 || dtype == core::DType::kF16;
  // H100 SXM, H200 and GH200 share the chip; the PCIe and NVL cards of it have lower clocks.
  const bool hopper = device_name.find("H100") != std::string::npos ||
                      device_name.find("H200") != std::string::npos;
  const bool slower =
      device_name.find("PCIe") != std::string::npos || device_name.find("NVL") != std::string::npos;
  if (hopper && !slower && half) return 989.5e12;
  if (device_name.find("A100") != std::string::npos && half) return 312e12;
  return 0.0;
}

}  // namespace lockstep::launcher
