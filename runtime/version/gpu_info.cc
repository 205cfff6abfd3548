#include "runtime/version/gpu_info.h"

#include "core/cuda_module.h"

namespace lockstep::runtime {

GpuInfo gpu_info() {
  const core::CudaModule module = core::load_cuda_module();
  if (module.description == nullptr) {
    const std::string with_module = "absent: it is used by the CUDA module only";
    return {"absent: " + module.why_absent,
            with_module,
            with_module,
            with_module,
            {"none: the CUDA module is absent"}};
  }
  core::cuda::ModuleVersions versions{};
  module.description->versions(&versions);
  return {versions.cuda, versions.cublaslt, versions.cudnn, versions.nccl,
          core::describe_devices(module.runtime())};
}

}  // namespace lockstep::runtime
