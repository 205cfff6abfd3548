#pragma once

#include <span>
#include <vector>

#include "core/memory.h"
#include "ops/op_context.h"
#include "ops/optimizer_update.h"
#include "runtime/config/tensor_rules.h"
#include "runtime/optimizer/update_changes.h"

namespace lockstep::runtime {

// A run of elements and what optimizer.groups say about its tensor.
struct RuledRun {
  TensorRule rule;
  ops::UpdateRun run;  // decay: set by the rule
};

// Runs whose tensors may differ in learning_rate_scale and weight_decay, planned once: those of one
// learning rate and one weight decay, or none, are updated in one call.
class UpdateParts {
 public:
  UpdateParts() = default;
  UpdateParts(std::vector<RuledRun> runs, const ops::OpContext& context,
              core::MemoryTracker& memory);

  // ops::optimizer_update_runs() of all, each by its own of the rule. changes: not null (on the CPU
  // only): where it leaves what it changes, with the same bits.
  void apply(ops::OpContext& context, const ops::UpdateRule& rule, const ops::RunFactors& factors,
             float clamp, UpdateChanges* changes = nullptr) const;
  void apply_decided(ops::OpContext& context, std::span<const ops::UpdateRule> rules,
                     const ops::UpdateChoice* choice, std::span<const float> by_run,
                     float clamp) const;

 private:
  struct Part {
    double learning_rate_scale = 1.0;
    double weight_decay = 0.0;
    ops::UpdatePlan plan;

    ops::UpdateRule own(ops::UpdateRule rule) const {
      rule.learning_rate *= learning_rate_scale;
      rule.weight_decay = weight_decay;
      return rule;
    }
  };

  std::vector<Part> parts_;
};

}  // namespace lockstep::runtime
