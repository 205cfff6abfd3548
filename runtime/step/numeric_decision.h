#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "ops/exact_sum.h"
#include "runtime/config/config.h"
#include "runtime/step/clip_rules.h"
#include "runtime/step/loss_scaler.h"
#include "runtime/step/spike_guard.h"

// The numeric half of the step decision: whether the update goes ahead, with which factor, and what
// the next step starts from. Plain bytes and constexpr functions, compiled for the host and for
// devices without contraction of a*b+c, so that both decide the same bits from the same numbers.
namespace lockstep::runtime {

// What the decision knows besides what was measured: the rules of the run.
struct DecisionRules {
  ClipConfig clip;
  LossScaleConfig loss_scale;
  OnDivergence on_divergence = OnDivergence::kStop;
  double spike_factor = 0.0;    // health.spike_factor; 0: off
  double vanishing_norm = 0.0;  // health.vanishing_norm; 0: off
  double loss_divisor = 0.0;    // D, used in backward: the most terms that a step can have, target
                                // tokens (batch.global * context) or sequences (batch.global)
};
static_assert(std::is_trivially_copyable_v<DecisionRules>);

// What earlier decisions left behind, as far as numbers follow from it.
struct NumericState {
  LossScaleState loss_scale;
  std::int64_t applied_steps = 0;
  std::int64_t skips_in_a_row = 0;                 // from whatever cause
  std::int64_t overflows_at_minimum_in_a_row = 0;  // dynamic scaling, steps that ran at the minimum
  SpikeGuardState spike_guard;
  ClipState clip;
  bool vanishing = false;  // the norm of the last applied step was below health.vanishing_norm

  bool operator==(const NumericState&) const = default;
};
static_assert(std::is_trivially_copyable_v<NumericState>);

// kSpike: finite, but the spike guard says no. kLeftOut: by a rollback; nothing was computed. These
// two of the host alone: kLeftOut, kDesync.
enum class StepOutcome { kApplied, kOverflow, kDiverged, kSpike, kNoTokens, kLeftOut, kDesync };

// What was measured of a step, by one rank or, added up, by all.
struct StepNumbers {
  ops::ExactSum sum_of_squares;          // of the aggregated, scaled gradient
  ops::ExactSum loss;                    // optimised; one addend a micro-batch, unscaled
  std::int64_t counted = 0;              // target tokens
  std::int64_t terms = 0;                // of the loss: n (ops::LossSums::terms)
  std::int64_t nonfinite_losses = 0;     // micro-batches
  std::int64_t nonfinite_gradients = 0;  // elements, before any reduction and in the sum

  constexpr void merge(const StepNumbers& other) {
    sum_of_squares.merge(other.sum_of_squares);
    loss.merge(other.loss);
    counted += other.counted;
    terms += other.terms;
    nonfinite_losses += other.nonfinite_losses;
    nonfinite_gradients += other.nonfinite_gradients;
  }
};
static_assert(std::is_trivially_copyable_v<StepNumbers>);

struct NumericDecision {
  StepOutcome outcome = StepOutcome::kApplied;
  double loss = 0.0;  // sum of the terms of the global batch / their number n; NaN when not finite
  std::int64_t counted = 0;  // target tokens of all ranks
  double grad_norm = 0.0;    // of the aggregated, unscaled gradient, before clipping; never masked
  double unscale =
      0.0;  // D / (n * loss scale): turns the aggregated gradient into the mean gradient
  double coefficient = 1.0;  // common_coefficient() of an applied step, else 1
  bool level = false;        // an applied step that leapt: it makes a level of the spikes before it
  NumericState next;         // the state for the next step
};

constexpr StepOutcome outcome_of(const StepNumbers& totals) {
  if (totals.nonfinite_losses > 0) return StepOutcome::kDiverged;
  if (totals.counted == 0) return StepOutcome::kNoTokens;
  if (totals.nonfinite_gradients > 0) return StepOutcome::kOverflow;
  return StepOutcome::kApplied;
}

// Moves decision.next, which is the state before the step, on behind it.
constexpr void advance_state(const DecisionRules& rules, NumericDecision& decision) {
  NumericState& state = decision.next;
  if (decision.outcome == StepOutcome::kApplied) {
    if (decision.level) {
      note_level(state.spike_guard, decision.loss, decision.grad_norm);
    } else {
      note_healthy_step(rules.spike_factor, state.spike_guard, decision.loss, decision.grad_norm);
    }
    state.clip = clip_state_after(rules.clip, clip_state_for(rules.clip.mode, state.clip),
                                  decision.grad_norm);
    state.vanishing = decision.grad_norm < rules.vanishing_norm;
    state.loss_scale = after_applied(rules.loss_scale, state.loss_scale);
    state.applied_steps += 1;
    state.skips_in_a_row = 0;
    state.overflows_at_minimum_in_a_row = 0;
    return;
  }
  if (decision.outcome == StepOutcome::kSpike)
    note_spike(state.spike_guard, decision.loss, decision.grad_norm);
  state.skips_in_a_row += 1;
  const bool overflow = decision.outcome == StepOutcome::kOverflow;
  const bool at_minimum = rules.loss_scale.mode == LossScaleMode::kDynamic &&
                          state.loss_scale.scale <= rules.loss_scale.minimum;
  state.overflows_at_minimum_in_a_row =
      overflow && at_minimum ? state.overflows_at_minimum_in_a_row + 1 : 0;
  if (overflow) state.loss_scale = after_overflow(rules.loss_scale, state.loss_scale);
}

// Pure. limits: spike_limits() of the state. decision: any, overwritten; it may not hold the state.
constexpr void decide_numbers(const DecisionRules& rules, const NumericState& state,
                              const SpikeLimits& limits, const StepNumbers& totals,
                              NumericDecision& decision) {
  decision.loss = decision.unscale = decision.grad_norm = 0.0;
  decision.coefficient = 1.0;
  decision.level = false;
  decision.next = state;
  decision.outcome = outcome_of(totals);
  decision.counted = totals.counted;
  if (totals.terms > 0) {
    const auto n = static_cast<double>(totals.terms);
    decision.loss = totals.loss.value() / n;
    decision.unscale = rules.loss_divisor / (n * state.loss_scale.scale);
    decision.grad_norm = std::sqrt(totals.sum_of_squares.value()) * decision.unscale;
  }
  if (totals.nonfinite_losses > 0) decision.loss = std::numeric_limits<double>::quiet_NaN();
  const bool spikes = spiking(limits, decision.loss, decision.grad_norm) != SpikeQuantity::kNone;
  if (decision.outcome == StepOutcome::kApplied && spikes) {
    decision.level = completes_level(state.spike_guard);
    if (!decision.level) decision.outcome = StepOutcome::kSpike;
  }
  if (decision.outcome == StepOutcome::kApplied) {
    decision.coefficient = common_coefficient(
        rules.clip, clip_state_for(rules.clip.mode, state.clip), decision.grad_norm);
  }
  advance_state(rules, decision);
}

constexpr NumericDecision decide_numbers(const DecisionRules& rules, const NumericState& state,
                                         const SpikeLimits& limits, const StepNumbers& totals) {
  NumericDecision decision;
  decide_numbers(rules, state, limits, totals, decision);
  return decision;
}

}  // namespace lockstep::runtime
