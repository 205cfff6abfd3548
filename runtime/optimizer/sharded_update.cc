#include "runtime/optimizer/sharded_update.h"

namespace lockstep::runtime {

void update_shards(const models::ParameterTable& table, ModelState& state,
                   const GradientBuckets& gradients, const models::ops::UpdateRule& rule,
                   const UpdateFactors& factors, models::ops::OpContext& context) {
  state.finish_gather();  // peers may still be reading the parameters that are about to change
  for (int b = 0; b < state.layout().size(); ++b) {
    const core::ConstTensorView gradient = gradients.updated(b);
    const std::int64_t begin = state.owned_begin(b);
    for (const OwnedRun& run : state.owned_runs(b)) {
      const auto id = static_cast<std::size_t>(run.segment.parameter);
      const double factor =
          factors.by_parameter.empty() ? factors.factor : factors.by_parameter[id];
      const core::ConstTensorView values(gradient.data<float>() + run.segment.bucket_begin - begin,
                                         gradient.dtype(), core::Shape{run.segment.count},
                                         gradient.device());
      const auto state_at = [&](std::size_t i) {
        return i < run.states.size() ? run.states[i] : core::TensorView{};
      };
      models::ops::optimizer_update(context, rule, table[run.segment.parameter].decays,
                                    static_cast<float>(factor), static_cast<float>(factors.clamp),
                                    values, run.master, state_at(0), state_at(1), run.parameter);
    }
  }
  state.gather();
}

}  // namespace lockstep::runtime
