#include "runtime/plan/run_plan.h"

namespace lockstep::runtime {

GradientPlan gradient_plan(const Config& config, int world_size) {
  GradientPlan plan;
  plan.compute = config.precision.compute;
  plan.wire = reduce_dtype(config);
  plan.zero_stage = config.parallel.zero_stage;
  plan.grad_sync = config.parallel.grad_sync;
  plan.rounds = accumulation_rounds(config, world_size);
  plan.overlap = config.parallel.overlap;
  return plan;
}

DecisionRules decision_rules(const Config& config) {
  DecisionRules rules;
  rules.clip = config.clip;
  rules.loss_scale = config.precision.loss_scale;
  rules.on_divergence = config.health.on_divergence;
  rules.spike_factor = config.health.spike_factor;
  rules.vanishing_norm = config.health.vanishing_norm;
  rules.loss_divisor = loss_divisor(config);
  return rules;
}

models::Recompute recompute_of(const Config& config) {
  switch (config.memory.recompute) {
    case Recompute::kNone:
      break;
    case Recompute::kAttention:
      return models::Recompute::kAttention;
    case Recompute::kBlock:
      return models::Recompute::kBlock;
  }
  return models::Recompute::kNone;
}

// A classification has one target a sequence, and so one row.
ops::LossOptions loss_options(const Config& config) {
  ops::LossOptions options;
  options.label_smoothing = config.loss.label_smoothing;
  options.z_loss = config.loss.z_loss;
  const bool rows_are_sequences = config.model.task == models::Task::kClassification;
  if (config.loss.normalise == LossNormalise::kSequences)
    options.sequence_rows = rows_are_sequences ? 1 : config.model.context;
  return options;
}

double loss_divisor(const Config& config) {
  const bool by_sequence = config.loss.normalise == LossNormalise::kSequences;
  return static_cast<double>(config.batch.global * (by_sequence ? 1 : config.model.context));
}

BucketLayout bucket_layout(const Config& config, const models::ParameterTable& table,
                           int world_size) {
  const auto limit = static_cast<std::int64_t>(config.parallel.bucket_mib * 1048576.0);
  return {table, config.model.tie_embeddings, world_size, limit,
          static_cast<std::int64_t>(core::size_of(config.precision.compute))};
}

}  // namespace lockstep::runtime
