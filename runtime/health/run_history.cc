#include "runtime/health/run_history.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <utility>

#include "core/error.h"
#include "runtime/config/load_config.h"
#include "runtime/step/ledger.h"

namespace lockstep::runtime {

namespace {

using nlohmann::json;

double number(const json& line, const char* name) {
  const auto found = line.find(name);
  return found == line.end() || !found->is_number() ? Measured::kNothing : found->get<double>();
}

std::string text(const json& line, const char* name) {
  const auto found = line.find(name);
  return found == line.end() || !found->is_string() ? std::string() : found->get<std::string>();
}

std::vector<double> numbers(const json& line, const char* name) {
  std::vector<double> values;
  for (const json& value : line.at(name))
    values.push_back(value.get<double>());
  return values;
}

StepPoint step_point(const json& line) {
  StepPoint p;
  p.step = line.at("step").get<std::int64_t>();
  const auto flag = [&](const char* name) { return line.at(name).get<bool>(); };
  p.outcome = flag("applied")    ? "applied"
              : flag("overflow") ? "overflow"
              : flag("diverged") ? "diverged"
                                 : "skipped";
  p.loss = number(line, "loss");
  p.grad_norm = number(line, "grad_norm");
  p.clip_coefficient = number(line, "clip_coefficient");
  p.learning_rate = number(line, "learning_rate");
  p.loss_scale = number(line, "loss_scale");
  p.tokens = line.at("tokens").get<std::int64_t>();
  p.step_seconds = number(line, "step_seconds");
  p.overflow_bucket = text(line, "overflow_bucket");
  p.overflow_tensor = text(line, "overflow_tensor");
  return p;
}

Measured measured(const json& layer) {
  Measured m;
  m.name = layer.at("name").get<std::string>();
  m.grad_norm = number(layer, "grad_norm");
  m.grad_max = number(layer, "grad_max");
  m.zero_share = number(layer, "zero_share");
  m.subnormal_share = number(layer, "subnormal_share");
  m.fp16_underflow_share = number(layer, "fp16_underflow_share");
  m.fp16_overflow_share = number(layer, "fp16_overflow_share");
  m.weight_norm = number(layer, "weight_norm");
  m.update_ratio = number(layer, "update_ratio");
  m.activation_rms = number(layer, "activation_rms");
  m.activation_max = number(layer, "activation_max");
  m.attention_logit_max = number(layer, "attention_logit_max");
  m.attention_entropy = number(layer, "attention_entropy");
  m.dead_share = number(layer, "dead_share");
  return m;
}

LayerReport layer_report(const json& line) {
  LayerReport report;
  report.step = line.at("step").get<std::int64_t>();
  report.loss_scale = number(line, "loss_scale");
  report.advised_loss_scale = number(line, "advised_loss_scale");
  report.fp16_underflow_share = number(line, "fp16_underflow_share");
  report.fp16_overflow_share = number(line, "fp16_overflow_share");
  report.applied_steps = line.at("applied_steps").get<std::int64_t>();
  report.clipped_steps = line.at("clipped_steps").get<std::int64_t>();
  for (const json& layer : line.at("layers"))
    report.layers.push_back(measured(layer));
  return report;
}

void take_line(const json& line, RunHistory& history) {
  const std::string event = line.at("event").get<std::string>();
  if (event == "step") {
    history.steps.push_back(step_point(line));
  } else if (event == "validation") {
    history.validations.push_back({line.at("step").get<std::int64_t>(), number(line, "loss")});
  } else if (event == "layers") {
    history.layers.push_back(layer_report(line));
  } else if (event == "timing") {
    history.timings.push_back({line.at("step").get<std::int64_t>(), numbers(line, "data_seconds"),
                               numbers(line, "compute_seconds"), numbers(line, "wait_seconds")});
  } else if (event == "health" && line.contains("step")) {
    history.health.push_back(
        {line.at("step").get<std::int64_t>(), text(line, "kind"), text(line, "largest_tensor")});
  } else if ((event == "run" || event == "resume") && line.contains("ranks")) {
    history.ranks = line.at("ranks").get<int>();
  } else if (event == "memory") {
    history.peak_bytes = number(line, "peak_bytes");
  }
}

void read_metrics(const std::string& path, RunHistory& history) {
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    throw core::Error(core::ErrorKind::kData,
                      fmt::format("{}: expected the metrics of a run, and cannot open it; name the "
                                  "run.output of a run",
                                  path));
  }
  std::int64_t number_of_line = 0;
  for (std::string line; std::getline(in, line);) {
    ++number_of_line;
    if (in.eof()) return;  // without its end: it is being written, or was torn
    if (line.empty()) continue;
    try {
      take_line(json::parse(line), history);
    } catch (const json::exception& error) {
      throw core::Error(core::ErrorKind::kData,
                        fmt::format("{}:{}: expected a line of metrics, found {}: {}", path,
                                    number_of_line, line.substr(0, 80), error.what()));
    }
  }
}

std::string unquoted(const std::string& text) {
  return text.size() < 2 || text.front() != '"' ? text : text.substr(1, text.size() - 2);
}

// The ledger knows why a step was not applied, and where its data begin.
void read_outcomes(const std::string& path, RunHistory& history) {
  if (!std::filesystem::exists(path)) return;
  std::unordered_map<std::int64_t, LedgerLine> by_step;
  for (LedgerLine& line : read_ledger(path))
    by_step[line.step] = std::move(line);
  for (StepPoint& point : history.steps) {
    const auto found = by_step.find(point.step);
    if (found == by_step.end()) continue;
    if (const std::string* outcome = found->second.find("outcome"); outcome != nullptr)
      point.outcome = unquoted(*outcome);
    if (const std::string* position = found->second.find("data_position"); position != nullptr)
      point.data_position = std::stoll(*position);
  }
}

void find_replays(const std::string& directory, RunHistory& history) {
  constexpr std::string_view kPrefix = "step-";
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(directory, none)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kPrefix)) continue;
    std::int64_t step = 0;
    const char* const end = name.data() + name.size();
    const auto parsed = std::from_chars(name.data() + kPrefix.size(), end, step);
    if (parsed.ec == std::errc() && parsed.ptr == end) history.replays.push_back(step);
  }
  std::sort(history.replays.begin(), history.replays.end());
}

}  // namespace

RunHistory read_run_history(const std::string& directory) {
  RunHistory history;
  history.directory = directory;
  const std::string config = directory + "/config.yaml";
  if (!std::filesystem::exists(config)) {
    throw core::Error(core::ErrorKind::kData,
                      fmt::format("{}: expected the output directory of a run, found no "
                                  "config.yaml in it; name the run.output of a run",
                                  directory));
  }
  history.config = load_config(config);
  read_metrics(directory + "/metrics.jsonl", history);
  read_outcomes(directory + "/ledger.jsonl", history);
  find_replays(directory + "/replay", history);
  return history;
}

}  // namespace lockstep::runtime
