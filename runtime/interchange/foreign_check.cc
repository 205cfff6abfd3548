#include "runtime/interchange/foreign_check.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string_view>

#include "core/error.h"
#include "runtime/config/rules.h"
#include "runtime/config/schema.h"

namespace lockstep::runtime {

namespace {

using models::ModelConfig;
using models::Positions;
using models::Task;

constexpr std::string_view kSection = "model.";

bool is_compared(std::string_view key, const ForeignModel& foreign, const Config& config) {
  constexpr std::string_view kFree[] = {"model.init",      "model.init_std",    "model.dropout",
                                        "model.init_from", "model.init_resize", "model.task"};
  if (!key.starts_with(kSection)) return false;
  if (std::find(std::begin(kFree), std::end(kFree), key) != std::end(kFree)) return false;
  if (key == "model.classes")
    return foreign.model.task == Task::kClassification &&
           config.model.task == Task::kClassification;
  if (key == "model.tie_embeddings") return config.model.task != Task::kClassification;
  if (key == "model.vocab") return !config.init_resize;
  if (key == "model.context")
    return foreign.model.positions == Positions::kLearned && !config.init_resize;
  return true;
}

// Windows that hide something within the context, one a layer.
std::vector<std::int64_t> effective_windows(const ModelConfig& model, std::int64_t context) {
  std::vector<std::int64_t> windows;
  for (std::int64_t layer = 0; layer < model.layers; ++layer) {
    const std::int64_t window = model.window_of(layer);
    windows.push_back(window < context ? window : 0);
  }
  return windows;
}

std::string text_of(const Key& key, const Config& config) {
  if (key.path == "model.head_width") return std::to_string(config.model.head_width());
  return has_effect(key.path, config) ? format_value(key.get(config)) : "";
}

}  // namespace

std::vector<ForeignDifference> find_differences(const ForeignModel& foreign, const Config& config) {
  Config theirs = config;
  theirs.model = foreign.model;
  std::vector<ForeignDifference> differences;
  for (const Key& key : schema_keys()) {
    if (!is_compared(key.path, foreign, config)) continue;
    if (key.path == "model.attention_window" && config.model.layers == foreign.model.layers &&
        effective_windows(config.model, config.model.context) ==
            effective_windows(foreign.model, config.model.context))
      continue;
    const std::string here = text_of(key, config);
    const std::string there = text_of(key, theirs);
    if (here == there) continue;
    // rope_scaling.factor follows from what rope_scaling does.
    const std::string name = key.path.substr(kSection.size());
    const auto origin = foreign.origin.find(name.substr(0, name.find('.')));
    differences.push_back(
        {key.path, here, there, origin == foreign.origin.end() ? "" : origin->second});
  }
  return differences;
}

void require_same_model(const ForeignModel& foreign, const Config& config,
                        const std::string& origin) {
  const std::vector<ForeignDifference> differences = find_differences(foreign, config);
  if (differences.empty()) return;
  std::string text = fmt::format(
      "{}: the {} model there is another than the configured one, so its weights would compute "
      "something else:",
      origin, foreign.model_type);
  std::string mend;
  for (const ForeignDifference& each : differences) {
    text += fmt::format("\n  {} is {}, there {}{}", each.key, each.ours.empty() ? "off" : each.ours,
                        each.theirs.empty() ? "off" : each.theirs,
                        each.origin.empty() ? fmt::format(" (as in every {})", foreign.model_type)
                                            : fmt::format(" ({})", each.origin));
    const std::string value = each.theirs.empty() ? "null" : each.theirs;
    const char* quote = value.find_first_of(" []") == std::string::npos ? "" : "'";
    mend += fmt::format(" --set {}{}={}{}", quote, each.key, value, quote);
  }
  text += "\nTo train that model:" + mend;
  const bool resizes = std::any_of(differences.begin(), differences.end(), [](const auto& each) {
    return each.key == "model.vocab" || each.key == "model.context";
  });
  if (resizes) text += "\nTo cut or pad vocabulary and context: --set model.init_resize=true";
  throw core::Error(core::ErrorKind::kConfig, text);
}

std::vector<std::string> allowed_differences(const ForeignModel& foreign, const Config& config) {
  std::vector<std::string> lines = foreign.notes;
  const bool same =
      std::all_of(foreign.dropouts.begin(), foreign.dropouts.end(),
                  [&](const auto& each) { return each.second == config.model.dropout; });
  if (!same) {
    std::vector<std::string> fields;
    for (const auto& [field, probability] : foreign.dropouts)
      fields.push_back(fmt::format("{} {}", field, probability));
    lines.push_back(fmt::format("dropout there is {}; model.dropout {} holds here",
                                fmt::join(fields, ", "), config.model.dropout));
  }
  if (foreign.model.positions == Positions::kRope && config.model.context > foreign.model.context)
    lines.push_back(
        fmt::format("model.context {} is more than the {} positions that it was made "
                    "for (max_position_embeddings)",
                    config.model.context, foreign.model.context));
  return lines;
}

}  // namespace lockstep::runtime
