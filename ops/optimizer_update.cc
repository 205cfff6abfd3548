#include "ops/optimizer_update.h"

#include <algorithm>

#include "ops/op_bodies.h"
#include "ops/op_checks.h"

namespace lockstep::ops {

using core::ConstTensorView;
using core::DType;
using core::TensorView;

int state_tensors(OptimizerKind kind, double momentum) {
  switch (kind) {
    case OptimizerKind::kAdamW:
    case OptimizerKind::kAdam:
      return 2;
    case OptimizerKind::kSgd:
      return momentum > 0.0 ? 1 : 0;
    case OptimizerKind::kRmsProp:
      return momentum > 0.0 ? 2 : 1;
    case OptimizerKind::kLion:
      return 1;
    case OptimizerKind::kMuon:
      return 0;
  }
  return 0;
}

namespace {

void check_views(const char* op, const UpdateRun& run, int states) {
  const std::int64_t n = run.gradient.elements();
  check_vector(op, "gradient", run.gradient, DType::kF32, n);
  check_vector(op, "master", run.master, DType::kF32, n);
  if (states > 0) check_vector(op, "state0", run.state0, DType::kF32, n);
  if (states > 1) check_vector(op, "state1", run.state1, DType::kF32, n);
  check_vector_or_empty(op, "parameter", run.parameter, run.parameter.dtype(), n);
}

void check_call(const char* op, const OpContext& context, const UpdateRule& rule,
                const UpdateFactor& factor) {
  LOCKSTEP_CHECK(rule.t >= 1, "{}: t counts applied steps from 1, found {}", op, rule.t);
  LOCKSTEP_CHECK(factor.on_device == nullptr || context.device().type != core::DeviceType::kCpu,
                 "{}: a factor in device memory for an update on the CPU", op);
}

int states_of(const UpdateRun& run) {
  return (run.state0.empty() ? 0 : 1) + (run.state1.empty() ? 0 : 1);
}

void check_plan(const char* op, const OpContext& context, const UpdateRule& rule,
                const UpdatePlan& plan, std::span<const float> by_run) {
  LOCKSTEP_CHECK(plan.device() == context.device(), "{}: a plan for {} on {}", op,
                 core::to_string(plan.device()), core::to_string(context.device()));
  if (plan.runs().empty()) return;
  LOCKSTEP_CHECK_EQ(plan.states(), state_tensors(rule.kind, rule.momentum),
                    "states of the plan and of the rule");
  LOCKSTEP_CHECK(by_run.empty() || static_cast<std::int64_t>(by_run.size()) >= plan.factors(),
                 "{}: {} factors for runs that use {}", op, by_run.size(), plan.factors());
}

void check_rules(const char* op, const OpContext& context, std::span<const UpdateRule> rules) {
  LOCKSTEP_CHECK(!rules.empty() && rules.size() <= kMostRules, "{}: {} rules, expected 1 to {}", op,
                 rules.size(), kMostRules);
  for (const UpdateRule& rule : rules) {
    check_call(op, context, rule, 1.0F);
    UpdateRule like_first = rule;
    like_first.learning_rate = rules.front().learning_rate;
    like_first.t = rules.front().t;
    LOCKSTEP_CHECK(like_first == rules.front(),
                   "{}: rules that differ in more than learning_rate and t", op);
  }
}

}  // namespace

void optimizer_update(OpContext& context, const UpdateRule& rule, bool decay, UpdateFactor factor,
                      float clamp, ConstTensorView gradient, TensorView master, TensorView state0,
                      TensorView state1, TensorView parameter) {
  constexpr const char* kOp = "optimizer_update";
  check_call(kOp, context, rule, factor);
  const OpBodies& bodies = bodies_for(context, kOp, {gradient, master, state0, state1, parameter});
  check_views(kOp, {gradient, master, state0, state1, parameter},
              state_tensors(rule.kind, rule.momentum));
  bodies.optimizer_update(context, rule, decay, factor, clamp, gradient, master, state0, state1,
                          parameter);
}

UpdatePlan::UpdatePlan(const OpContext& context, core::MemoryTracker& memory,
                       std::vector<UpdateRun> runs)
    : device_(context.device()), runs_(std::move(runs)) {
  constexpr const char* kOp = "UpdatePlan";
  if (runs_.empty()) return;
  const UpdateRun& first = runs_.front();
  states_ = states_of(first);
  if (!first.parameter.empty()) parameter_ = first.parameter.dtype();
  std::vector<UpdateSpan> spans;
  std::vector<UpdateTile> tiles;
  for (const UpdateRun& run : runs_) {
    bodies_for(context, kOp, {run.gradient, run.master, run.state0, run.state1, run.parameter});
    LOCKSTEP_CHECK_EQ(states_of(run), states_, "states of a run");
    LOCKSTEP_CHECK(run.parameter.empty() == first.parameter.empty() &&
                       (run.parameter.empty() || run.parameter.dtype() == parameter_),
                   "{}: runs with different kinds of parameter", kOp);
    LOCKSTEP_CHECK(run.factor >= 0, "{}: factor {}", kOp, run.factor);
    check_views(kOp, run, states_);
    factors_ = std::max(factors_, run.factor + 1);
    if (context.device_ref().on_cpu()) continue;
    const auto index = static_cast<std::int32_t>(spans.size());
    spans.push_back(span_of(run));
    for (std::int32_t tile = 0; tile * UpdateTile::kElements < spans.back().count; ++tile)
      tiles.push_back({index, tile});
  }
  spans_ = {context, memory, std::move(spans)};
  tiles_ = {context, memory, std::move(tiles)};
}

void optimizer_update_runs(OpContext& context, const UpdateRule& rule, const UpdatePlan& plan,
                           const RunFactors& factors, float clamp) {
  constexpr const char* kOp = "optimizer_update_runs";
  check_call(kOp, context, rule, factors.common);
  check_plan(kOp, context, rule, plan, factors.by_run);
  if (plan.runs().empty()) return;
  context.bodies().optimizer_update_runs(context, rule, plan, factors, clamp);
}

void optimizer_update_runs(OpContext& context, std::span<const UpdateRule> rules,
                           const UpdatePlan& plan, const UpdateChoice* choice,
                           std::span<const float> by_run, float clamp) {
  constexpr const char* kOp = "optimizer_update_runs";
  check_rules(kOp, context, rules);
  LOCKSTEP_CHECK(choice != nullptr, "{}: no choice", kOp);
  check_plan(kOp, context, rules.front(), plan, by_run);
  if (plan.runs().empty()) return;
  context.bodies().optimizer_update_chosen(context, rules, plan, choice, by_run, clamp);
}

}  // namespace lockstep::ops
