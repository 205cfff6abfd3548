#include "runtime/step/decision_bodies.h"

#include <fmt/format.h>

#include "core/error.h"

namespace lockstep::runtime {

const DecisionBodies& cuda_decision_bodies(const core::CudaModule& module) {
  module.runtime();  // throws where there is no module
  if (module.description->decision_bytes != sizeof(DecisionBodies)) {
    throw core::Error(core::ErrorKind::kConfig,
                      fmt::format("{} holds {} bytes of the step decision, this program knows {}: "
                                  "they come from different builds; build both together",
                                  core::cuda::kModuleFile, module.description->decision_bytes,
                                  sizeof(DecisionBodies)));
  }
  return *static_cast<const DecisionBodies*>(module.description->decision_bodies);
}

}  // namespace lockstep::runtime
