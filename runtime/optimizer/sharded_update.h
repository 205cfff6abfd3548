#pragma once

#include <memory>
#include <span>
#include <vector>

#include "core/memory.h"
#include "ops/op_context.h"
#include "ops/optimizer_update.h"
#include "runtime/optimizer/muon_update.h"
#include "runtime/optimizer/step_rules.h"
#include "runtime/optimizer/update_parts.h"
#include "runtime/sharding/gradient_buckets.h"
#include "runtime/sharding/model_state.h"

namespace lockstep::runtime {

// What turns the aggregated gradient into the one that the optimizer sees.
struct UpdateFactors {
  double factor = 1.0;               // clip coefficient * D / (n * loss scale)
  std::vector<double> by_parameter;  // tensor_norm, adagc: one for each parameter instead
  double clamp = 0.0;                // value: clamp to +-clamp after the factor; 0: none
};

// The update of what this rank owns of every bucket, planned once: neither gradients nor state
// move.
class ShardedUpdate {
 public:
  ShardedUpdate(const Config& config, const models::ParameterTable& table, ModelState& state,
                const GradientBuckets& gradients, comm::Communicator& communicator,
                ops::OpContext& context, core::MemoryTracker& memory);

  // Updates; ModelState::gather() then makes it everybody's. Padding is never touched. Of a rule a
  // tensor's learning_rate_scale and weight_decay make its own. Collective with optimizer.name
  // muon. changes: not null (on the CPU only): where it leaves what it changes.
  void apply(const StepRules& rules, const UpdateFactors& factors,
             UpdateChanges* changes = nullptr);
  // The same where a device decides whether, with which of the rules and with which factors
  // (by_parameter: fp32 [parameters]; empty: the choice's): in its memory, read when it comes
  // there.
  void apply_decided(std::span<const StepRules> rules, const ops::UpdateChoice* choice,
                     std::span<const float> by_parameter, double clamp);

  // Seconds of Newton-Schulz on this rank since the last call; 0 without muon, and on a device.
  double take_iteration_seconds() { return muon_ ? muon_->take_iteration_seconds() : 0.0; }

 private:
  ops::RunFactors run_factors(const UpdateFactors& factors);

  ModelState& state_;
  ops::OpContext& context_;
  std::unique_ptr<MuonUpdate> muon_;  // of the matrices, with optimizer.name muon; else null
  UpdateParts rest_;                  // each run takes the factor of its parameter
  core::Buffer factors_on_device_;    // fp32 [parameters]
  std::vector<float> factors_;        // where every parameter has its own
};

}  // namespace lockstep::runtime
