#include "runtime/health/doctor.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "runtime/health/findings.h"

namespace lockstep::runtime {

namespace {

struct Row {
  const char* kind;
  FindingRule find;
};

constexpr Row kRows[] = {
    {"not_finite", find_not_finite},
    {"exploding_gradients", find_exploding_gradients},
    {"learning_rate_too_high", find_learning_rate_too_high},
    {"loss_spikes", find_loss_spikes},
    {"vanishing_gradients", find_vanishing_gradients},
    {"dead_units", find_dead_units},
    {"loss_scale_sinking", find_loss_scale_sinking},
    {"loss_scale_thrash", find_loss_scale_thrash},
    {"oscillation", find_oscillation},
    {"learning_rate_too_low", find_learning_rate_too_low},
    {"plateau", find_plateau},
    {"overfitting", find_overfitting},
    {"clipping_always", find_clipping_always},
    {"clipping_never", find_clipping_never},
    {"slow_rank", find_slow_rank},
    {"slow_data", find_slow_data},
    {"memory_near_limit", find_memory_near_limit},
};

// The newest bundle of a step that went wrong among those of the finding.
std::string bundle_for(const RunHistory& history, const Finding& finding) {
  for (auto step = history.replays.rbegin(); step != history.replays.rend(); ++step) {
    if (finding.first_step <= *step && *step <= finding.last_step)
      return fmt::format("{}/replay/step-{:08d}", history.directory, *step);
  }
  return {};
}

bool speaks_of_single_steps(const std::string& kind) {
  return kind == "not_finite" || kind == "loss_spikes" || kind.starts_with("loss_scale");
}

}  // namespace

const char* name_of(Severity severity) {
  switch (severity) {
    case Severity::kInfo:
      return "info";
    case Severity::kWarning:
      return "warning";
    case Severity::kError:
      return "error";
  }
  return "?";
}

const std::vector<std::string>& finding_kinds() {
  static const std::vector<std::string> kinds = [] {
    std::vector<std::string> names;
    for (const Row& row : kRows)
      names.emplace_back(row.kind);
    return names;
  }();
  return kinds;
}

std::vector<Finding> diagnose(const RunHistory& history) {
  std::vector<Finding> findings;
  for (const Row& row : kRows) {
    std::optional<Finding> finding = row.find(history);
    if (!finding) continue;
    finding->kind = row.kind;
    finding->advice = applicable(history.config, finding->advice);
    if (speaks_of_single_steps(finding->kind)) finding->replay = bundle_for(history, *finding);
    findings.push_back(std::move(*finding));
  }
  std::stable_sort(findings.begin(), findings.end(),
                   [](const Finding& a, const Finding& b) { return a.severity > b.severity; });
  return findings;
}

std::string to_json(const RunHistory& history, const std::vector<Finding>& findings) {
  using nlohmann::ordered_json;
  ordered_json all = ordered_json::array();
  for (const Finding& f : findings) {
    ordered_json advice = ordered_json::array();
    for (const Advice& a : f.advice)
      advice.push_back({{"set", a.set}, {"why", a.why}});
    ordered_json one = {{"kind", f.kind},
                        {"severity", name_of(f.severity)},
                        {"steps", {f.first_step, f.last_step}},
                        {"layers", f.layers},
                        {"evidence", f.evidence},
                        {"causes", f.causes},
                        {"advice", advice}};
    if (!f.replay.empty()) one["replay"] = f.replay;
    all.push_back(std::move(one));
  }
  const bool any = !history.steps.empty();
  const ordered_json document = {
      {"run", history.directory},
      {"steps", {any ? history.steps.front().step : 0, any ? history.steps.back().step : 0}},
      {"findings", all}};
  return document.dump();
}

std::string to_text(const RunHistory& history, const std::vector<Finding>& findings) {
  const std::int64_t steps = history.steps.empty() ? 0 : history.steps.back().step;
  if (findings.empty()) {
    return fmt::format("{}: nothing wrong in {} steps of {}\n", history.directory, steps,
                       history.config.train.steps);
  }
  std::string text;
  for (const Finding& f : findings) {
    text += fmt::format("{}: {} (steps {} to {})\n  {}\n", name_of(f.severity), f.kind,
                        f.first_step, f.last_step, f.evidence);
    if (!f.layers.empty()) text += fmt::format("  layers: {}\n", fmt::join(f.layers, ", "));
    text += fmt::format("  likely: {}\n", fmt::join(f.causes, "; or "));
    for (const Advice& a : f.advice) {
      text += a.set.empty() ? fmt::format("  try: {}\n", a.why)
                            : fmt::format("  try: --set {}  ({})\n", a.set, a.why);
    }
    if (!f.replay.empty()) text += fmt::format("  lockstep replay {}\n", f.replay);
  }
  return text;
}

}  // namespace lockstep::runtime
