#pragma once

#include <span>
#include <vector>

#include "core/memory.h"
#include "ops/op_context.h"
#include "ops/optimizer_update.h"
#include "runtime/config/tensor_rules.h"
#include "runtime/sharding/gradient_buckets.h"
#include "runtime/sharding/model_state.h"

namespace lockstep::runtime {

// What turns the aggregated gradient into the one that the optimizer sees.
struct UpdateFactors {
  double factor = 1.0;               // clip coefficient * D / (n * loss scale)
  std::vector<double> by_parameter;  // tensor_norm: a factor for each parameter instead; else empty
  double clamp = 0.0;                // value: clamp to +-clamp after the factor; 0: none
};

// The update of what this rank owns of every bucket, planned once: neither gradients nor state
// move.
class ShardedUpdate {
 public:
  // rules: by ParameterId.
  ShardedUpdate(const std::vector<TensorRule>& rules, ModelState& state,
                const GradientBuckets& gradients, ops::OpContext& context,
                core::MemoryTracker& memory);

  // Updates; ModelState::gather() then makes it everybody's. Padding is never touched. Of `rule` a
  // tensor's learning_rate_scale and weight_decay make its own.
  void apply(const ops::UpdateRule& rule, const UpdateFactors& factors);
  // The same where a device decides whether, with which of the rules and with which factors
  // (by_parameter: fp32 [parameters]; empty: the choice's): in its memory, read when it comes
  // there.
  void apply_decided(std::span<const ops::UpdateRule> rules, const ops::UpdateChoice* choice,
                     std::span<const float> by_parameter, double clamp);

 private:
  // Tensors that are updated in one call: of one learning rate and one weight decay, or none.
  struct Part {
    double learning_rate_scale = 1.0;
    double weight_decay = 0.0;
    ops::UpdatePlan plan;  // each run takes the factor of its parameter

    ops::UpdateRule own(ops::UpdateRule rule) const {
      rule.learning_rate *= learning_rate_scale;
      rule.weight_decay = weight_decay;
      return rule;
    }
  };

  static std::vector<Part> make_parts(const std::vector<TensorRule>& rules, ModelState& state,
                                      const GradientBuckets& gradients,
                                      const ops::OpContext& context, core::MemoryTracker& memory);
  ops::RunFactors run_factors(const UpdateFactors& factors);

  ModelState& state_;
  ops::OpContext& context_;
  std::vector<Part> parts_;
  core::Buffer factors_on_device_;  // fp32 [parameters]
  std::vector<float> factors_;      // of tensor_norm
};

}  // namespace lockstep::runtime
