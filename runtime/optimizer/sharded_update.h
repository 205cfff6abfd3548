#pragma once

#include <vector>

#include "core/memory.h"
#include "models/ops/op_context.h"
#include "models/ops/optimizer_update.h"
#include "runtime/sharding/gradient_buckets.h"
#include "runtime/sharding/model_state.h"

namespace lockstep::runtime {

// What turns the aggregated gradient into the one that the optimizer sees.
struct UpdateFactors {
  double factor = 1.0;               // clip coefficient * D / (n * loss scale)
  std::vector<double> by_parameter;  // tensor_norm: a factor for each parameter instead; else empty
  double clamp = 0.0;                // value: clamp to +-clamp after the factor; 0: none
};

// What this rank updates of every bucket, for update_shards(): runs in order of buckets, each with
// its parameter as the factor that it takes. Made once: neither gradients nor state move.
models::ops::UpdatePlan plan_update(const models::ParameterTable& table, const ModelState& state,
                                    const GradientBuckets& gradients,
                                    const models::ops::OpContext& context,
                                    core::MemoryTracker& memory);

// Updates what this rank owns of every bucket and starts the all-gather of the new parameters.
// Padding is never touched.
void update_shards(ModelState& state, const models::ops::UpdatePlan& plan,
                   const models::ops::UpdateRule& rule, const UpdateFactors& factors,
                   models::ops::OpContext& context);

}  // namespace lockstep::runtime
