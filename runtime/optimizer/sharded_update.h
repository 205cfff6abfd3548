#pragma once

#include <span>
#include <vector>

#include "core/memory.h"
#include "ops/op_context.h"
#include "ops/optimizer_update.h"
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
  ShardedUpdate(const models::ParameterTable& table, ModelState& state,
                const GradientBuckets& gradients, ops::OpContext& context,
                core::MemoryTracker& memory);

  // Updates; ModelState::gather() then makes it everybody's. Padding is never touched.
  void apply(const ops::UpdateRule& rule, const UpdateFactors& factors);
  // The same where a device decides whether, with which of the rules and with which factors
  // (by_parameter: fp32 [parameters]; empty: the choice's): in its memory, read when it comes
  // there.
  void apply_decided(std::span<const ops::UpdateRule> rules, const ops::UpdateChoice* choice,
                     std::span<const float> by_parameter, double clamp);

 private:
  ops::RunFactors run_factors(const UpdateFactors& factors);

  ModelState& state_;
  ops::OpContext& context_;
  ops::UpdatePlan plan_;            // each run takes the factor of its parameter
  core::Buffer factors_on_device_;  // fp32 [parameters]
  std::vector<float> factors_;      // of tensor_norm
};

}  // namespace lockstep::runtime
