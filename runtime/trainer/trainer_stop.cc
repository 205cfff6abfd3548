#include <chrono>

#include <fmt/format.h>

#include "runtime/ranks/agree.h"
#include "runtime/trainer/trainer.h"

namespace lockstep::runtime {

// All ranks are here at the same step, because one of them asked for it in its report.
void Trainer::stop_as_requested() {
  std::string saved = "without a checkpoint, as checkpoint.on_signal: false asks";
  if (config_.checkpoint.on_signal || checkpoint_due(progress_.step)) {
    if (saver_.in_flight() && saving_step_ == progress_.step) finish_save();
    if (whole_step_ != progress_.step) save_checkpoint();
    saved = "checkpoint saved; continue with --resume auto";
  }
  const double limit = config_.run.time_limit;
  const std::chrono::duration<double> trained = std::chrono::steady_clock::now() - started_;
  const bool over = limit > 0.0 && trained.count() >= limit;
  throw AgreedError(
      core::ErrorKind::kStopped,
      fmt::format("{} after step {}: {}", over ? "run.time_limit is over" : "stopped on request",
                  progress_.step, saved));
}

std::string Trainer::culprit_text(const StepDecision& decision) const {
  switch (decision.outcome) {
    case StepOutcome::kOverflow:
      return recorder_.describe_overflow(decision, progress_.decision.loss_scale.scale);
    case StepOutcome::kDiverged:
      return broken_text(decision);
    case StepOutcome::kSpike:
      return "spike: " + recorder_.describe_spike(decision);
    case StepOutcome::kLeftOut:
      return fmt::format("the last one was left out by a rollback, as were steps {}",
                         describe_left_out(progress_.decision.rollbacks));
    case StepOutcome::kNoTokens:
      return "the last one counted no token";
    case StepOutcome::kApplied:
    case StepOutcome::kDesync:
      break;
  }
  return name_of(decision.outcome);
}

// What broke a step, or those before it, and where.
std::string Trainer::broken_text(const StepDecision& decision) const {
  if (decision.outcome != StepOutcome::kDiverged) return spike_text();
  const int layer = decision.diverged_layer;
  const std::string place = layer == models::Transformer::kNonFiniteEmbeddings ? "the embeddings"
                            : layer == config_.model.layers
                                ? "the head (the outputs of all blocks are finite)"
                                : fmt::format("the output of block {}", layer);
  return fmt::format("the loss is not finite on rank {}: the first inf or NaN is in {}",
                     decision.diverged_rank, place);
}

void Trainer::stop_if_decided(const StepDecision& decision) const {
  const auto fail = [&](const std::string& text) {
    throw AgreedError(core::ErrorKind::kDiverged, fmt::format("step {}: {}", progress_.step, text));
  };
  const bool scales = config_.precision.loss_scale.mode != LossScaleMode::kNone;
  // A spike in the last step of all has nothing behind it that would tell it from a level.
  if (decision.outcome == StepOutcome::kSpike && progress_.step == config_.train.steps &&
      rules_.on_divergence == OnDivergence::kStop)
    stop_for_spike(spike_text());
  switch (decision.stop) {
    case StopReason::kNone:
    case StopReason::kDesync:  // refuse_desync() threw
    case StopReason::kRequested:
    case StopReason::kRollback:
      return;
    case StopReason::kDiverged:
      return fail(broken_text(decision) +
                  "; lower optimizer.learning_rate, lengthen schedule.warmup_steps, or resume from "
                  "an earlier checkpoint");
    case StopReason::kSpike:
    case StopReason::kSpoilt:
      return stop_for_spike(spike_text());
    case StopReason::kTooManySkips:
      return fail(fmt::format(
          "{} steps in a row were skipped{}; {}", decision.next.skips_in_a_row,
          scales ? " (precision.loss_scale.max_consecutive_skips)" : ", and no more may be",
          culprit_text(decision)));
    case StopReason::kScaleExhausted:
      return fail(
          fmt::format("{} overflows in a row at the minimum loss scale {} "
                      "(precision.loss_scale.overflow_patience); {}",
                      decision.next.overflows_at_minimum_in_a_row,
                      config_.precision.loss_scale.minimum, culprit_text(decision)));
  }
}

}  // namespace lockstep::runtime
