#include "runtime/optimizer/step_rules.h"

#include "runtime/optimizer/lr_schedule.h"

namespace lockstep::runtime {

StepRules step_rules(const Config& config, std::int64_t applied_step,
                     std::int64_t optimizer_since) {
  const OptimizerConfig& optimizer = config.optimizer;
  ops::UpdateRule rule;
  rule.kind = optimizer.name;
  rule.t = applied_step - optimizer_since;
  rule.learning_rate = learning_rate_at(config.schedule, optimizer.learning_rate, applied_step);
  rule.beta1 = optimizer.betas[0];
  rule.beta2 = optimizer.betas[1];
  rule.eps = optimizer.eps;
  rule.weight_decay = optimizer.weight_decay;
  rule.momentum = optimizer.momentum;
  rule.alpha = optimizer.alpha;
  StepRules rules{rule, rule};
  if (optimizer.name == ops::OptimizerKind::kMuon) {
    rules.tensors.kind = ops::OptimizerKind::kAdamW;
    rules.tensors.learning_rate =
        learning_rate_at(config.schedule, optimizer.muon.adamw_learning_rate, applied_step);
  }
  return rules;
}

}  // namespace lockstep::runtime
