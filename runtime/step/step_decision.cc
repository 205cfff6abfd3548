#include "runtime/step/step_decision.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <utility>

#include "core/hash.h"

namespace lockstep::runtime {

namespace {

struct ViewField {
  const char* name;
  std::uint64_t (*bits)(const RunView&);
  std::string (*text)(const RunView&);
};

// In the order in which a difference is most telling: the chain head differs whenever anything
// earlier did.
const ViewField kViewFields[] = {
    {"step", [](const RunView& v) { return static_cast<std::uint64_t>(v.step); },
     [](const RunView& v) { return std::to_string(v.step); }},
    {"data_position", [](const RunView& v) { return static_cast<std::uint64_t>(v.data_position); },
     [](const RunView& v) { return std::to_string(v.data_position); }},
    {"applied_steps", [](const RunView& v) { return static_cast<std::uint64_t>(v.applied_steps); },
     [](const RunView& v) { return std::to_string(v.applied_steps); }},
    {"config_fingerprint", [](const RunView& v) { return v.config_fingerprint; },
     [](const RunView& v) { return core::to_hex(v.config_fingerprint); }},
    {"loss_scale", [](const RunView& v) { return std::bit_cast<std::uint64_t>(v.loss_scale); },
     [](const RunView& v) { return fmt::format("{}", v.loss_scale); }},
    {"learning_rate",
     [](const RunView& v) { return std::bit_cast<std::uint64_t>(v.learning_rate); },
     [](const RunView& v) { return fmt::format("{}", v.learning_rate); }},
    {"chain_head", [](const RunView& v) { return v.chain_head; },
     [](const RunView& v) { return core::to_hex(v.chain_head); }},
    {"parameter_digest", [](const RunView& v) { return v.parameter_digest; },
     [](const RunView& v) { return core::to_hex(v.parameter_digest); }},
};

Desync desync_in_field(const ViewField& field, std::span<const StepReport> reports) {
  std::map<std::uint64_t, std::vector<int>> ranks_by_value;
  for (std::size_t r = 0; r < reports.size(); ++r) {
    ranks_by_value[field.bits(reports[r].view)].push_back(static_cast<int>(r));
  }
  if (ranks_by_value.size() <= 1) return {};
  const auto majority = std::max_element(
      ranks_by_value.begin(), ranks_by_value.end(),
      [](const auto& a, const auto& b) { return a.second.size() < b.second.size(); });
  const bool clear = 2 * majority->second.size() > reports.size();
  Desync desync;
  desync.field = field.name;
  for (std::size_t r = 0; r < reports.size(); ++r) {
    const bool in_majority = field.bits(reports[r].view) == majority->first;
    if (clear && in_majority) continue;
    desync.ranks.push_back(static_cast<int>(r));
    desync.detail += fmt::format("{}rank {} has {}", desync.detail.empty() ? "" : ", ", r,
                                 field.text(reports[r].view));
  }
  if (clear) {
    const auto& witness = reports[static_cast<std::size_t>(majority->second.front())].view;
    desync.detail +=
        fmt::format(", the other {} have {}", majority->second.size(), field.text(witness));
  }
  return desync;
}

struct Totals {
  models::ops::ExactSum sum_of_squares;
  models::ops::ExactSum loss;
  std::int64_t counted = 0;
  std::int64_t nonfinite_losses = 0;
  std::uint32_t requests = 0;
  bool nonfinite_gradient = false;
};

Totals add_up(std::span<const StepReport> reports) {
  Totals totals;
  for (const StepReport& report : reports) {
    totals.sum_of_squares.merge(report.sum_of_squares);
    totals.loss.merge(report.optimised_loss);
    totals.counted += report.counted;
    totals.nonfinite_losses += report.nonfinite_losses;
    totals.requests |= report.requests;
    totals.nonfinite_gradient |= report.own.found() || report.shard.found();
  }
  return totals;
}

StepOutcome outcome_of(const Totals& totals) {
  if (totals.nonfinite_losses > 0) return StepOutcome::kDiverged;
  if (totals.counted == 0) return StepOutcome::kNoTokens;
  if (totals.nonfinite_gradient) return StepOutcome::kOverflow;
  return StepOutcome::kApplied;
}

int first_diverged_rank(std::span<const StepReport> reports) {
  for (std::size_t r = 0; r < reports.size(); ++r) {
    if (reports[r].nonfinite_losses > 0) return static_cast<int>(r);
  }
  return -1;
}

bool save_settled(std::span<const StepReport> reports) {
  const auto any = [&](SaveProgress progress) {
    return std::any_of(reports.begin(), reports.end(),
                       [&](const StepReport& report) { return report.save == progress; });
  };
  return any(SaveProgress::kFailed) ||
         (any(SaveProgress::kWritten) && !any(SaveProgress::kWriting));
}

void name_culprit(std::span<const StepReport> reports, StepDecision& decision) {
  for (std::size_t r = 0; r < reports.size(); ++r) {
    if (!reports[r].own.found()) continue;
    decision.overflow_rank = static_cast<int>(r);
    decision.culprit = reports[r].own;
    return;
  }
  for (const StepReport& report : reports) {  // finite on every rank, but not the sum
    if (!report.shard.found()) continue;
    decision.culprit = report.shard;
    return;
  }
}

// Loss, norm and what turns the aggregated gradient into the mean one.
void measure(const DecisionRules& rules, double loss_scale, const Totals& totals,
             StepDecision& decision) {
  if (decision.outcome == StepOutcome::kLeftOut) {
    decision.loss = decision.grad_norm = std::numeric_limits<double>::quiet_NaN();
    return;
  }
  if (totals.counted > 0) {
    const auto n = static_cast<double>(totals.counted);
    decision.loss = totals.loss.value() / n;
    decision.unscale = rules.tokens_per_step / (n * loss_scale);
    decision.grad_norm = std::sqrt(totals.sum_of_squares.value()) * decision.unscale;
  }
  if (totals.nonfinite_losses > 0) decision.loss = std::numeric_limits<double>::quiet_NaN();
}

DecisionState next_state(const DecisionRules& rules, DecisionState state,
                         const StepDecision& decision) {
  const StepOutcome outcome = decision.outcome;
  if (outcome == StepOutcome::kApplied) {
    state.spike_guard = after_healthy_step(rules.spike_factor, std::move(state.spike_guard),
                                           decision.loss, decision.grad_norm);
    state.vanishing = decision.grad_norm < rules.vanishing_norm;
    state.loss_scale = after_applied(rules.loss_scale, state.loss_scale);
    state.applied_steps += 1;
    state.skips_in_a_row = 0;
    state.overflows_at_minimum_in_a_row = 0;
    return state;
  }
  state.skips_in_a_row += 1;
  const bool overflow = outcome == StepOutcome::kOverflow;
  const bool at_minimum = rules.loss_scale.mode == LossScaleMode::kDynamic &&
                          state.loss_scale.scale <= rules.loss_scale.minimum;
  state.overflows_at_minimum_in_a_row =
      overflow && at_minimum ? state.overflows_at_minimum_in_a_row + 1 : 0;
  if (overflow) state.loss_scale = after_overflow(rules.loss_scale, state.loss_scale);
  return state;
}

StopReason stop_reason(const DecisionRules& rules, const StepDecision& decision,
                       std::uint32_t requests) {
  const bool diverged = decision.outcome == StepOutcome::kDiverged;
  const bool broken = diverged || decision.outcome == StepOutcome::kSpike;
  if (broken && rules.on_divergence == OnDivergence::kStop) {
    return diverged ? StopReason::kDiverged : StopReason::kSpike;
  }
  if (decision.next.overflows_at_minimum_in_a_row >= rules.loss_scale.overflow_patience) {
    return StopReason::kScaleExhausted;
  }
  if (decision.next.skips_in_a_row >= rules.loss_scale.max_consecutive_skips) {
    return StopReason::kTooManySkips;
  }
  // A request to stop is still there at the next step, which is then one of a sound run.
  if (broken && rules.on_divergence == OnDivergence::kRollback) return StopReason::kRollback;
  return (requests & kRequestStop) != 0 ? StopReason::kRequested : StopReason::kNone;
}

}  // namespace

double clip_coefficient(double norm, double threshold) {
  return std::min(1.0, threshold / (norm + 1e-6));
}

Desync find_desync(std::span<const StepReport> reports) {
  for (const ViewField& field : kViewFields) {
    Desync desync = desync_in_field(field, reports);
    if (!desync.ranks.empty()) return desync;
  }
  Desync contradicted;
  for (std::size_t r = 0; r < reports.size(); ++r) {
    if (reports[r].contradicted_bucket >= 0) contradicted.ranks.push_back(static_cast<int>(r));
  }
  if (!contradicted.ranks.empty()) contradicted.field = kParameterField;
  return contradicted;
}

DecisionState initial_decision_state(const DecisionRules& rules) {
  DecisionState state;
  state.loss_scale = initial_loss_scale(rules.loss_scale);
  return state;
}

StepDecision decide(const DecisionRules& rules, const DecisionState& state,
                    std::span<const StepReport> reports) {
  StepDecision decision;
  decision.next = state;
  decision.save_settled = save_settled(reports);
  decision.desync = find_desync(reports);
  if (!decision.desync.ranks.empty()) {
    decision.outcome = StepOutcome::kDesync;
    decision.stop = StopReason::kDesync;
    return decision;
  }
  const Totals totals = add_up(reports);
  const std::int64_t step = reports.front().view.step;
  decision.outcome =
      is_left_out(state.rollbacks, step) ? StepOutcome::kLeftOut : outcome_of(totals);
  decision.counted = totals.counted;
  measure(rules, state.loss_scale.scale, totals, decision);
  if (decision.applied()) {
    decision.spike =
        judge_step(rules.spike_factor, state.spike_guard, decision.loss, decision.grad_norm);
    if (decision.spike.found()) decision.outcome = StepOutcome::kSpike;
  }
  if (decision.applied() && rules.clip.mode == ClipMode::kGlobalNorm) {
    decision.coefficient = clip_coefficient(decision.grad_norm, rules.clip.threshold);
  }
  decision.diverged_rank = first_diverged_rank(reports);
  if (decision.diverged_rank >= 0) {
    const auto rank = static_cast<std::size_t>(decision.diverged_rank);
    decision.diverged_layer = static_cast<int>(reports[rank].nonfinite_layer);
  }
  if (decision.outcome == StepOutcome::kOverflow) name_culprit(reports, decision);
  decision.next = next_state(rules, state, decision);
  decision.vanished = decision.next.vanishing && !state.vanishing;
  decision.stop = stop_reason(rules, decision, totals.requests);
  decision.checkpoint = (totals.requests & kRequestCheckpoint) != 0;
  return decision;
}

}  // namespace lockstep::runtime
