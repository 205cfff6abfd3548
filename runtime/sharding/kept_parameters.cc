#include "runtime/sharding/kept_parameters.h"

namespace lockstep::runtime {

KeptParameters::KeptParameters(const models::ParameterTable& table, const BucketLayout& layout,
                               ModelState& state, core::MemoryTracker& memory)
    : table_(table), layout_(layout), state_(state), memory_(memory) {
  const std::size_t bytes = ModelState::parameter_bytes(layout, state.compute());
  memory.add(kRegion, bytes);
  try {
    values_ = core::PinnedBuffer(state.context().device_ref(), bytes);
  } catch (...) {
    memory.remove(kRegion, bytes);
    throw;
  }
}

KeptParameters::~KeptParameters() {
  memory_.remove(kRegion, values_.bytes());
}

void KeptParameters::keep_unless_applied(const DecisionBodies& bodies,
                                         const DeviceDecision& decision) {
  bodies.keep_unless_applied(state_.context(), decision.decided_on_device(),
                             state_.all_parameters().raw(), values_.data(), values_.bytes());
}

core::ConstTensorView KeptParameters::parameter(models::ParameterId id) {
  const auto offset = static_cast<std::size_t>(layout_.parameter_offset(id));
  return {values_.data() + offset * core::size_of(state_.compute()), state_.compute(),
          table_[id].shape};
}

}  // namespace lockstep::runtime
