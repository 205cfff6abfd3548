#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/step/numeric_decision.h"
#include "runtime/step/rollback.h"
#include "runtime/step/spike_guard.h"
#include "runtime/step/step_report.h"

namespace lockstep::runtime {

struct DecisionState : NumericState {
  // adagc: the reference norm of every tensor, by ParameterId (clip_tensor()); empty until a step
  // was applied. decide() hands them on; the trainer, whose ranks exchange the norms, moves them.
  std::vector<double> clip_references;
  Rollbacks rollbacks;  // so far; decide() hands them on

  bool operator==(const DecisionState&) const = default;
};

DecisionState initial_decision_state(const DecisionRules& rules);

// kRollback does not end the run: it goes back to its newest healthy checkpoint. kDiverged and
// kSpike follow health.on_divergence: stop. A spike is one when a step is back below the limit:
// kSpike and kRollback then come with that step, which is neither applied nor recorded. kSpoilt: what
// looks like a new level is one of spoilt weights (the trainer's finding).
enum class StopReason {
  kNone,
  kDesync,
  kDiverged,
  kSpike,
  kSpoilt,
  kRollback,
  kTooManySkips,
  kScaleExhausted,
  kRequested
};

// The field named when a rank found that parameters it owns changed in its memory.
inline constexpr const char* kParameterField = "parameters";

// Of an applied step: for the sake of the steps before it, so that it is neither applied nor
// recorded.
constexpr bool ends_attempt(StopReason stop) {
  return stop == StopReason::kSpike || stop == StopReason::kSpoilt || stop == StopReason::kRollback;
}

// Ranks that do not agree about the run.
struct Desync {
  std::vector<int> ranks;  // the minority; every rank when there is no majority
  std::string field;       // the first differing field of RunView, or kParameterField
  std::string detail;      // values, for people
};

// The tensor that holds most of a gradient: its norm, of the mean gradient before clipping.
struct LargestGradient {
  int parameter = -1;  // ParameterId
  double norm = 0.0;
};

struct StepDecision {
  StepOutcome outcome = StepOutcome::kApplied;
  StopReason stop = StopReason::kNone;
  bool checkpoint = false;  // asked for by some rank
  // The checkpoint in flight is to be finished: every rank's part is written, or one has failed.
  bool save_settled = false;

  double loss = 0.0;  // sum of the terms of the global batch / their number n; NaN when not finite
                      // or not computed
  std::int64_t counted = 0;  // target tokens of all ranks
  double grad_norm = 0.0;    // of the aggregated, unscaled gradient, before clipping; never masked;
                             // NaN when not computed
  double unscale =
      0.0;  // D / (n * loss scale): turns the aggregated gradient into the mean gradient
  double coefficient = 1.0;  // common_coefficient() of an applied step, else 1
  DecisionState next;        // the state for the next step

  // Of an overflow: the lowest rank whose own gradient was not finite, and what it found; rank -1:
  // only a sum was.
  int overflow_rank = -1;
  NonFiniteReport culprit;
  int diverged_rank = -1;  // the lowest rank with a loss that is not finite
  int diverged_layer = 0;  // of that rank's first such micro-batch: ops::LossSums::nonfinite_layer
  SpikeVerdict spike;      // of a spike, and of the step that makes a level of spikes
  bool level = false;      // that step
  int spikes_before = 0;   // in a row, up to the step before
  LargestGradient
      largest;            // of a spike; decide() leaves it to the trainer, whose ranks exchange it
  bool vanished = false;  // an applied step, the first of a stretch with a vanishing norm
  Desync desync;

  bool applied() const { return outcome == StepOutcome::kApplied; }
  // The step is back below the limit: those before it were a spike.
  bool ends_spike() const { return applied() && !level && spikes_before > 0; }
};

// The step decision: a pure function, the same on every rank (docs/architecture.md, "One step").
// reports[r] is rank r's. Its numbers are those of decide_numbers().
StepDecision decide(const DecisionRules& rules, const DecisionState& state,
                    std::span<const StepReport> reports);

// What the reports of all ranks add up to.
StepNumbers add_up(std::span<const StepReport> reports);

// Compares the views; empty ranks when all agree.
Desync find_desync(std::span<const StepReport> reports);

}  // namespace lockstep::runtime
