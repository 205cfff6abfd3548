#include "runtime/optimizer/sharded_update.h"

namespace lockstep::runtime {

models::ops::UpdatePlan plan_update(const models::ParameterTable& table, const ModelState& state,
                                    const GradientBuckets& gradients,
                                    const models::ops::OpContext& context,
                                    core::MemoryTracker& memory) {
  std::vector<models::ops::UpdateRun> runs;
  for (int b = 0; b < state.layout().size(); ++b) {
    const core::ConstTensorView gradient = gradients.updated(b);
    const std::int64_t begin = state.owned_begin(b);
    for (const OwnedRun& owned : state.owned_runs(b)) {
      const std::int64_t offset = owned.segment.bucket_begin - begin;
      models::ops::UpdateRun run;
      run.gradient = gradient.slice_cols(offset, offset + owned.segment.count);
      run.master = owned.master;
      if (owned.states.size() > 0) run.state0 = owned.states[0];
      if (owned.states.size() > 1) run.state1 = owned.states[1];
      run.parameter = owned.parameter;
      run.decay = table[owned.segment.parameter].decays;
      run.factor = owned.segment.parameter;
      runs.push_back(run);
    }
  }
  return {context, memory, std::move(runs)};
}

void update_shards(ModelState& state, const models::ops::UpdatePlan& plan,
                   const models::ops::UpdateRule& rule, const UpdateFactors& factors,
                   models::ops::OpContext& context) {
  state.finish_gather();  // peers may still be reading the parameters that are about to change
  const std::vector<float> by_parameter(factors.by_parameter.begin(), factors.by_parameter.end());
  const models::ops::RunFactors run_factors =
      by_parameter.empty() ? models::ops::RunFactors(static_cast<float>(factors.factor))
                           : models::ops::RunFactors(std::span<const float>(by_parameter));
  models::ops::optimizer_update_runs(context, rule, plan, run_factors,
                                     static_cast<float>(factors.clamp));
  state.gather();
}

}  // namespace lockstep::runtime
