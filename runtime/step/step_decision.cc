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

std::uint32_t all_requests(std::span<const StepReport> reports) {
  std::uint32_t requests = 0;
  for (const StepReport& report : reports)
    requests |= report.requests;
  return requests;
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

// Nothing was computed: no number says anything, and nothing follows but one skip more.
NumericDecision leave_out(const DecisionRules& rules, const NumericState& state) {
  NumericDecision decision;
  decision.outcome = StepOutcome::kLeftOut;
  decision.loss = decision.grad_norm = std::numeric_limits<double>::quiet_NaN();
  decision.next = state;
  advance_state(rules, decision);
  return decision;
}

void take_numbers(const NumericDecision& numbers, StepDecision& decision) {
  decision.outcome = numbers.outcome;
  decision.loss = numbers.loss;
  decision.counted = numbers.counted;
  decision.grad_norm = numbers.grad_norm;
  decision.unscale = numbers.unscale;
  decision.coefficient = numbers.coefficient;
  decision.level = numbers.level;
  static_cast<NumericState&>(decision.next) = numbers.next;
}

StopReason stop_reason(const DecisionRules& rules, const StepDecision& decision,
                       std::uint32_t requests) {
  const bool diverged = decision.outcome == StepOutcome::kDiverged;
  const bool broken = diverged || decision.ends_spike();
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

StepNumbers add_up(std::span<const StepReport> reports) {
  StepNumbers totals;
  for (const StepReport& report : reports) {
    const bool broken = report.own.found() || report.shard.found();
    totals.merge({report.sum_of_squares, report.optimised_loss, report.counted, report.terms,
                  report.nonfinite_losses, broken ? 1 : 0});
  }
  return totals;
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
  const SpikeLimits limits = spike_limits(rules.spike_factor, state.spike_guard);
  take_numbers(is_left_out(state.rollbacks, reports.front().view.step)
                   ? leave_out(rules, state)
                   : decide_numbers(rules, state, limits, add_up(reports)),
               decision);
  decision.spikes_before = static_cast<int>(state.spike_guard.spikes());
  if (decision.outcome == StepOutcome::kSpike || decision.level) {
    decision.spike =
        judge_step(rules.spike_factor, state.spike_guard, decision.loss, decision.grad_norm);
  }
  decision.diverged_rank = first_diverged_rank(reports);
  if (decision.diverged_rank >= 0) {
    const auto rank = static_cast<std::size_t>(decision.diverged_rank);
    decision.diverged_layer = static_cast<int>(reports[rank].nonfinite_layer);
  }
  if (decision.outcome == StepOutcome::kOverflow) name_culprit(reports, decision);
  decision.vanished = decision.next.vanishing && !state.vanishing;
  const std::uint32_t requests = all_requests(reports);
  decision.stop = stop_reason(rules, decision, requests);
  decision.checkpoint = (requests & kRequestCheckpoint) != 0;
  return decision;
}

}  // namespace lockstep::runtime
