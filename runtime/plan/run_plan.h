#pragma once

#include "models/parameter_table.h"
#include "models/recompute.h"
#include "ops/loss.h"
#include "runtime/config/config.h"
#include "runtime/sharding/bucket_layout.h"
#include "runtime/sharding/gradient_buckets.h"
#include "runtime/step/step_decision.h"

// How a config becomes a layout, a gradient plan and decision rules: the same for a run, for
// `lockstep plan`, for replay and for sampling.
namespace lockstep::runtime {

GradientPlan gradient_plan(const Config& config, int world_size);
DecisionRules decision_rules(const Config& config);
models::Recompute recompute_of(const Config& config);  // memory.recompute
// What the loss of every micro-batch is told, but for the weight of its gradient: loss scale / D.
ops::LossOptions loss_options(const Config& config);
double loss_divisor(const Config& config);  // D: DecisionRules::loss_divisor
BucketLayout bucket_layout(const Config& config, const models::ParameterTable& table,
                           int world_size);

}  // namespace lockstep::runtime
