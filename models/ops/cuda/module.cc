#include <cstring>

#include "core/build_config.h"
#include "core/cuda/module_interface.h"
#include "core/cuda/nvidia/runtime.h"
#include "models/ops/cuda/bodies.h"
#include "models/ops/cuda/cublaslt_matmul.h"
#include "models/ops/cuda/cudnn_attention.h"
#include "models/ops/cuda/libraries.h"

// The one function that liblockstep_cuda.so shows to the program.
extern "C" __attribute__((visibility("default"))) const lockstep::core::cuda::ModuleDescription*
lockstep_cuda_module();

namespace lockstep::models::ops::cuda {

namespace {

OpBodies module_bodies() {
  OpBodies bodies = own_kernel_bodies();
  bodies.matmul = cublaslt_matmul;
  bodies.matmul_activation_forward = cublaslt_matmul_activation_forward;
  bodies.matmul_activation_backward = cublaslt_matmul_activation_backward;
  bodies.matmul_weight_gradient = cublaslt_matmul_weight_gradient;
  bodies.attention_forward = cudnn_attention_forward;
  bodies.attention_backward = cudnn_attention_backward;
  bodies.attention_server = cudnn_attention_server;
  bodies.open_libraries = open_libraries;
  bodies.close_libraries = close_libraries;
  bodies.describe_choices = describe_choices;
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
