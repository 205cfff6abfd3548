#include <fmt/format.h>

#include "runtime/ranks/agree.h"
#include "runtime/trainer/trainer.h"
#include "runtime/trainer/validation.h"

// What a run makes of steps that leap (runtime/step/spike_guard.h).
namespace lockstep::runtime {

// Steps that leap in a row: either the data have changed, or the weights. The weights are sound if
// they still fit the data of the last step that did not leap. Collective.
void Trainer::examine_level(std::int64_t step, StepDecision& decision) {
  const std::int64_t global = config_.batch.global;
  const std::int64_t last_healthy = step - decision.spikes_before - 1;
  const std::int64_t position = data_position(last_healthy);
  SpikeGuardState before = progress_.decision.spike_guard;
  before.spike_losses = before.spike_norms = {};
  if (position < 0) return;
  const double limit = spike_limits(rules_.spike_factor, before).loss;
  StopPoints parameters(*state_, table_, communicator_);  // asks nobody: it takes as long as a step
  const double loss = mean_loss(config_, *train_data_, {position, global}, *model_, parameters,
                                communicator_, &monitor_);
  if (loss <= limit) return;
  spoilt_ = fmt::format(
      "; and the loss on the data of step {}, which did not leap then, is now "
      "{:.6g}: the weights were spoilt before",
      last_healthy, loss);
  const bool rolls_back = rules_.on_divergence == OnDivergence::kRollback;
  decision.stop = rolls_back ? StopReason::kRollback : StopReason::kSpoilt;
}

// Of the steps that leapt, up to the last one done.
std::string Trainer::spike_text() const {
  const auto steps = static_cast<std::int64_t>(progress_.decision.spike_guard.spikes());
  std::string text = "spike: ";
  if (steps > 1) text += fmt::format("{} steps in a row, the first: ", steps);
  text += first_spike_.empty() ? "before this run was resumed" : first_spike_;
  return text + spoilt_;
}

void Trainer::stop_for_spike(const std::string& cause) const {
  throw AgreedError(
      core::ErrorKind::kDiverged,
      fmt::format(
          "step {}: {}; look at the data of this step, resume with health.on_divergence skip "
          "or rollback, lower optimizer.learning_rate, or raise health.spike_factor (now {}; "
          "0: off)",
          progress_.step, cause, config_.health.spike_factor));
}

}  // namespace lockstep::runtime
