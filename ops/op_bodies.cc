#include "ops/op_bodies.h"

#include "core/error.h"

namespace lockstep::ops {

const OpBodies& cuda_op_bodies(const core::CudaModule& module) {
  module.runtime();  // throws where there is no module
  if (module.description->bodies_bytes != sizeof(OpBodies)) {
    throw core::Error(
        core::ErrorKind::kConfig,
        fmt::format("{} holds {} bytes of op bodies, this program knows {}: they come "
                    "from different builds; build both together",
                    core::cuda::kModuleFile, module.description->bodies_bytes, sizeof(OpBodies)));
  }
  return *static_cast<const OpBodies*>(module.description->op_bodies);
}

const OpBodies& bodies_for(const OpContext& context, const char* op,
                           std::initializer_list<core::ConstTensorView> views) {
  for (const core::ConstTensorView& view : views) {
    if (view.empty() || view.device() == context.device()) continue;
    throw core::Error(
        core::ErrorKind::kConfig,
        fmt::format("{}: an argument lies on {}, but the op was asked to run on {}", op,
                    core::to_string(view.device()), core::to_string(context.device())));
  }
  return context.bodies();
}

}  // namespace lockstep::ops
