#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "core/memory.h"
#include "ops/op_bodies.h"
#include "ops/op_context.h"

namespace lockstep::launcher {

// Where a benchmark of ops runs: threads of this machine, or its first GPU.
class BenchDevice {
 public:
  // memory_bytes: the most that may be allocated through memory(); 0: no limit. Throws
  // Error(kConfig) saying why there is no GPU where one is asked for.
  static BenchDevice cpu(int threads, std::size_t memory_bytes);
  static BenchDevice cuda(int threads, std::size_t memory_bytes, ops::Determinism determinism);
  // Any device with its bodies.
  BenchDevice(core::DeviceRef device, const ops::OpBodies& bodies, int threads,
              std::size_t memory_bytes, ops::Determinism determinism);

  ops::OpContext& context() { return *context_; }
  core::MemoryTracker& memory() { return *memory_; }

 private:
  BenchDevice() = default;

  std::unique_ptr<core::MemoryTracker> memory_;
  std::unique_ptr<ops::OpContext> context_;
};

// "NVIDIA H200", or the processor as the system names it.
std::string name_of_device(core::DeviceRef device);

// Dense matrix products of a device as its datasheet has it, in FLOP/s; 0 where that is not known.
double datasheet_peak(const std::string& device_name, core::DType dtype);

}  // namespace lockstep::launcher
