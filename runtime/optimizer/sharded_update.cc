#include "runtime/optimizer/sharded_update.h"

#include <algorithm>
#include <utility>

namespace lockstep::runtime {

namespace {

// The runs of a part, before they are planned.
struct Runs {
  double learning_rate_scale = 1.0;
  double weight_decay = 0.0;  // 0: of no run so far
  std::vector<ops::UpdateRun> runs;

  // What does not decay may stand beside anything of its learning rate.
  bool takes(const TensorRule& rule) const {
    return learning_rate_scale == rule.learning_rate_scale &&
           (weight_decay == 0.0 || rule.weight_decay == 0.0 || weight_decay == rule.weight_decay);
  }
};

Runs& runs_for(const TensorRule& rule, std::vector<Runs>& all) {
  for (Runs& some : all) {
    if (!some.takes(rule)) continue;
    some.weight_decay = std::max(some.weight_decay, rule.weight_decay);
    return some;
  }
  return all.emplace_back(Runs{rule.learning_rate_scale, rule.weight_decay, {}});
}

}  // namespace

std::vector<ShardedUpdate::Part> ShardedUpdate::make_parts(const std::vector<TensorRule>& rules,
                                                           ModelState& state,
                                                           const GradientBuckets& gradients,
                                                           const ops::OpContext& context,
                                                           core::MemoryTracker& memory) {
  std::vector<Runs> all;
  for (int b = 0; b < state.layout().size(); ++b) {
    const core::ConstTensorView gradient = gradients.updated(b);
    const std::int64_t begin = state.owned_begin(b);
    for (const OwnedRun& owned : state.owned_runs(b)) {
      const std::int64_t offset = owned.segment.bucket_begin - begin;
      const TensorRule& rule = rules[static_cast<std::size_t>(owned.segment.parameter)];
      ops::UpdateRun run;
      run.gradient = gradient.slice_cols(offset, offset + owned.segment.count);
      run.master = owned.master;
      if (owned.states.size() > 0) run.state0 = owned.states[0];
      if (owned.states.size() > 1) run.state1 = owned.states[1];
      run.parameter = owned.parameter;
      run.decay = rule.weight_decay > 0.0;
      run.factor = owned.segment.parameter;
      runs_for(rule, all).runs.push_back(run);
    }
  }
  std::vector<Part> parts;
  for (Runs& some : all) {
    parts.push_back({some.learning_rate_scale, some.weight_decay,
                     ops::UpdatePlan(context, memory, std::move(some.runs))});
  }
  return parts;
}

ShardedUpdate::ShardedUpdate(const std::vector<TensorRule>& rules, ModelState& state,
                             const GradientBuckets& gradients, ops::OpContext& context,
                             core::MemoryTracker& memory)
    : state_(state),
      context_(context),
      parts_(make_parts(rules, state, gradients, context, memory)),
      factors_(rules.size()) {
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
  const ops::RunFactors by_run = run_factors(factors);
  for (const Part& part : parts_) {
    ops::optimizer_update_runs(context_, part.own(rule), part.plan, by_run,
                               static_cast<float>(factors.clamp));
  }
}

void ShardedUpdate::apply_decided(std::span<const ops::UpdateRule> rules,
                                  const ops::UpdateChoice* choice,
                                  std::span<const float> by_parameter, double clamp) {
  state_.finish_gather();
  for (const Part& part : parts_) {
    std::vector<ops::UpdateRule> of_part;
    for (const ops::UpdateRule& rule : rules)
      of_part.push_back(part.own(rule));
    ops::optimizer_update_runs(context_, of_part, part.plan, choice, by_parameter,
                               static_cast<float>(clamp));
  }
}

}  // namespace lockstep::runtime
