#include "runtime/optimizer/update_parts.h"

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

UpdateParts::UpdateParts(std::vector<RuledRun> runs, const ops::OpContext& context,
                         core::MemoryTracker& memory) {
  std::vector<Runs> all;
  for (RuledRun& each : runs) {
    each.run.decay = each.rule.weight_decay > 0.0;
    runs_for(each.rule, all).runs.push_back(each.run);
  }
  for (Runs& some : all) {
    parts_.push_back({some.learning_rate_scale, some.weight_decay,
                      ops::UpdatePlan(context, memory, std::move(some.runs))});
  }
}

void UpdateParts::apply(ops::OpContext& context, const ops::UpdateRule& rule,
                        const ops::RunFactors& factors, float clamp, UpdateChanges* changes) const {
  for (const Part& part : parts_) {
    if (changes == nullptr) {
      ops::optimizer_update_runs(context, part.own(rule), part.plan, factors, clamp);
      continue;
    }
    for (const ops::UpdateRun& run : part.plan.runs()) {
      const ops::UpdateFactor factor = factors.by_run.empty()
                                           ? factors.common
                                           : factors.by_run[static_cast<std::size_t>(run.factor)];
      changes->update(context, part.own(rule), run, factor, clamp);
    }
  }
}

void UpdateParts::apply_decided(ops::OpContext& context, std::span<const ops::UpdateRule> rules,
                                const ops::UpdateChoice* choice, std::span<const float> by_run,
                                float clamp) const {
  for (const Part& part : parts_) {
    std::vector<ops::UpdateRule> of_part;
    for (const ops::UpdateRule& rule : rules)
      of_part.push_back(part.own(rule));
    ops::optimizer_update_runs(context, of_part, part.plan, choice, by_run, clamp);
  }
}

}  // namespace lockstep::runtime
