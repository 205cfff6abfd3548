#include <cstring>

#include "core/build_config.h"
#include "core/cuda/module_interface.h"
#include "core/cuda/nvidia/runtime.h"
#include "ops/cuda/module_bodies.h"
#include "runtime/cuda/decision_kernels.h"

// The one function that liblockstep_cuda.so shows to the program.
extern "C" __attribute__((visibility("default"))) const lockstep::core::cuda::ModuleDescription*
lockstep_cuda_module();

namespace lockstep::runtime::cuda {

namespace {

core::cuda::ModuleDescription describe_module() {
  static const ops::OpBodies op_bodies = ops::cuda::module_op_bodies();
  static const DecisionBodies decision = decision_kernels();
  core::cuda::ModuleDescription module{};
  static_assert(core::kVersion.size() < sizeof(module.version));
  std::memcpy(module.version, core::kVersion.data(), core::kVersion.size());
  module.runtime_bytes = sizeof(core::DeviceRuntime);
  module.bodies_bytes = sizeof(op_bodies);
  module.decision_bytes = sizeof(decision);
  module.runtime = &core::cuda::nvidia_runtime();
  module.op_bodies = &op_bodies;
  module.decision_bodies = &decision;
  module.versions = core::cuda::describe_versions;
  return module;
}

}  // namespace
}  // namespace lockstep::runtime::cuda

const lockstep::core::cuda::ModuleDescription* lockstep_cuda_module() {
  static const lockstep::core::cuda::ModuleDescription module =
      lockstep::runtime::cuda::describe_module();
  return &module;
}
