#include <cstring>

#include "core/build_config.h"
#include "core/cuda/module_interface.h"
#include "core/cuda/nvidia/runtime.h"
#include "models/ops/cuda/bodies.h"
#include "models/ops/cuda/cublaslt_matmul.h"

// The one function that liblockstep_cuda.so shows to the program.
extern "C" __attribute__((visibility("default"))) const lockstep::core::cuda::ModuleDescription*
lockstep_cuda_module();

namespace lockstep::models::ops::cuda {

namespace {

OpBodies module_bodies() {
  OpBodies bodies = own_kernel_bodies();
  bodies.matmul = cublaslt_matmul;
  bodies.open_libraries = open_cublaslt;
  bodies.close_libraries = close_cublaslt;
  return bodies;
}

core::cuda::ModuleDescription describe_module() {
  static const OpBodies bodies = module_bodies();
  core::cuda::ModuleDescription module{};
  static_assert(core::kVersion.size() < sizeof(module.version));
  std::memcpy(module.version, core::kVersion.data(), core::kVersion.size());
  module.runtime_bytes = sizeof(core::DeviceRuntime);
  module.bodies_bytes = sizeof(OpBodies);
  module.runtime = &core::cuda::nvidia_runtime();
  module.op_bodies = &bodies;
  module.versions = core::cuda::describe_versions;
  return module;
}

}  // namespace
}  // namespace lockstep::models::ops::cuda

const lockstep::core::cuda::ModuleDescription* lockstep_cuda_module() {
  static const lockstep::core::cuda::ModuleDescription module =
      lockstep::models::ops::cuda::describe_module();
  return &module;
}
