#pragma once

#include <memory>
#include <string>

#include "core/cuda_module.h"
#include "core/device_runtime.h"
#include "core/memory.h"
#include "ops/op_bodies.h"
#include "ops/op_context.h"
#include "runtime/config/config.h"
#include "runtime/step/decision_bodies.h"

namespace lockstep::runtime {

// Where one rank computes: the CPU by default.
struct BackendDevice {
  core::DeviceRef device;
  const ops::OpBodies* bodies = nullptr;     // null: the CPU's
  const DecisionBodies* decision = nullptr;  // devices only
  std::string name = "cpu";                  // "cuda:0, NVIDIA H200"

  bool on_cpu() const { return device.on_cpu(); }
};

// Which of the ranks of its host a rank is, and of how many.
struct LocalRank {
  int rank = 0;
  int of = 1;
};

// What one rank finds when it looks for its device; the choice is made for all ranks together.
struct DeviceSearch {
  BackendDevice found;  // the CPU where there is none
  std::string why_not;  // why there is no device for it; empty when there is one
};

// Looks for the device of this rank: one for each rank of the host, or, where `shared`, as many as
// there are, dealt out in turn.
DeviceSearch find_cuda_device(const core::CudaModule& module, LocalRank local, bool shared);

// The device for all ranks from what each found (`missing`: by rank, why not; empty: found). cuda
// asked for and not there on some rank: Error(kConfig) naming it. auto: the CPU for all unless
// everybody found one.
bool uses_cuda(DeviceChoice choice, const std::vector<std::string>& missing);

ops::Determinism context_determinism(const Config& config);

// The context in which a rank of this device computes.
ops::OpContext make_op_context(const BackendDevice& device, const Config& config, int threads,
                               core::MemoryTracker& memory);

}  // namespace lockstep::runtime
