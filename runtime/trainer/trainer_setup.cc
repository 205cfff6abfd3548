#include "runtime/trainer/trainer.h"

namespace lockstep::runtime {

void Trainer::tell_of_average() const {
  if (!average_.active()) return;
  log_.info("ema", "{}", WeightAverage::describe(config_.ema));
  const std::string warning = WeightAverage::warning(config_.ema, config_.train.steps);
  if (!warning.empty() && communicator_.rank() == 0) log_.warning("ema", "{}", warning);
}

void Trainer::tell_health(const std::string& fields) {
  recorder_.event("health", fields);
}

// The weights are still those of the step, because it was not applied; or they have been kept, for
// a device may be a step ahead.
void Trainer::keep_for_replay(const StepDecision& decision,
                              const std::vector<StepReport>& reports) {
  if (communicator_.rank() != 0 || config_.health.replay_bundles == 0) return;
  if (!replay_due(decision, progress_.decision)) return;
  const auto aside = std::chrono::steady_clock::now();
  models::ParameterSource& weights =
      kept_ ? static_cast<models::ParameterSource&>(*kept_) : *state_;
  replay_writer_.write(make_replay_record(decision, reports, table_, layout_), weights,
                       *train_data_);
  step_begin_ += std::chrono::steady_clock::now() - aside;  // as saving, in no step's seconds
}

}  // namespace lockstep::runtime
