#include "runtime/optimizer/sharded_update.h"

namespace lockstep::runtime {

namespace {

ops::UpdatePlan plan_update(const models::ParameterTable& table, const ModelState& state,
                            const GradientBuckets& gradients, const ops::OpContext& context,
                            core::MemoryTracker& memory) {
  std::vector<ops::UpdateRun> runs;
  for (int b = 0; b < state.layout().size(); ++b) {
    const core::ConstTensorView gradient = gradients.updated(b);
    const std::int64_t begin = state.owned_begin(b);
    for (const OwnedRun& owned : state.owned_runs(b)) {
      const std::int64_t offset = owned.segment.bucket_begin - begin;
      ops::UpdateRun run;
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

}  // namespace

ShardedUpdate::ShardedUpdate(const models::ParameterTable& table, ModelState& state,
                             const GradientBuckets& gradients, ops::OpContext& context,
                             core::MemoryTracker& memory)
    : state_(state),
      context_(context),
      plan_(plan_update(table, state, gradients, context, memory)),
      factors_(static_cast<std::size_t>(table.size())) {
  if (context.device_ref().on_cpu()) return;
  factors_on_device_ = core::Buffer(memory, ops::kTablesRegion, factors_.size() * sizeof(float),
                                    context.device_ref());
}

ops::RunFactors ShardedUpdate::run_factors(const UpdateFactors& factors) {
  if (factors.by_parameter.empty()) return static_cast<float>(factors.factor);
  for (std::size_t i = 0; i < factors_.size(); ++i)
    factors_[i] = static_cast<float>(factors.by_parameter[i]);
  const float* where = factors_.data();
  if (!factors_on_device_.empty()) {
    context_.upload(factors_on_device_.data(), factors_.data(), factors_.size() * sizeof(float));
    where = static_cast<const float*>(factors_on_device_.data());
  }
  return ops::RunFactors(std::span<const float>(where, factors_.size()));
}

void ShardedUpdate::apply(const ops::UpdateRule& rule, const UpdateFactors& factors) {
  state_.finish_gather();  // peers may still be reading the parameters that are about to change
  ops::optimizer_update_runs(context_, rule, plan_, run_factors(factors),
                             static_cast<float>(factors.clamp));
}

void ShardedUpdate::apply_decided(std::span<const ops::UpdateRule> rules,
                                  const ops::UpdateChoice* choice,
                                  std::span<const float> by_parameter, double clamp) {
  state_.finish_gather();
  ops::optimizer_update_runs(context_, rules, plan_, choice, by_parameter,
                             static_cast<float>(clamp));
}

}  // namespace lockstep::runtime
