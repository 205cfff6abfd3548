#include "runtime/report/run_curves.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include "core/error.h"

namespace lockstep::runtime {
namespace {

using nlohmann::ordered_json;

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

// A line of one flat JSON object, as `step` lines are, searched for one member after the other. They
// are most of a file, and parsing them whole takes several times as long.
class FlatLine {
 public:
  explicit FlatLine(std::string_view text) : text_(text) {}

  // `member` is the name with its quotes and colon. NaN: absent, null or not a number.
  double number(std::string_view member) {
    const std::string_view value = value_of(member);
    double number = kNone;
    std::from_chars(value.data(), value.data() + value.size(), number);
    return number;
  }
  bool flag(std::string_view member) { return value_of(member).starts_with("true"); }

 private:
  std::string_view value_of(std::string_view member) {
    std::size_t found = text_.find(member, at_);
    if (found == std::string_view::npos) found = text_.find(member);
    if (found == std::string_view::npos) return {};
    at_ = found + member.size();
    return text_.substr(at_);
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

// Curves of step lines, and where each finds its value.
struct StepField {
  const char* curve;
  std::string_view member;
};
constexpr std::array<StepField, 6> kStepFields = {
    {{"loss", "\"loss\":"},
     {"grad_norm", "\"grad_norm\":"},
     {"clip_coefficient", "\"clip_coefficient\":"},
     {"learning_rate", "\"learning_rate\":"},
     {"loss_scale", "\"loss_scale\":"},
     {"tokens_per_second", "\"tokens_per_second\":"}}};
constexpr std::array kTimingFields = {"data_seconds", "compute_seconds", "wait_seconds"};

double number_or_none(const ordered_json& line, const char* name) {
  const auto found = line.find(name);
  return found != line.end() && found->is_number() ? found->get<double>() : kNone;
}

std::string text_or(const ordered_json& line, const char* name, const std::string& otherwise) {
  const auto found = line.find(name);
  return found != line.end() && found->is_string() ? found->get<std::string>() : otherwise;
}

// Of an array with a value a rank.
double mean(const ordered_json& line, const char* name) {
  const auto found = line.find(name);
  if (found == line.end() || !found->is_array() || found->empty()) return kNone;
  double sum = 0.0;
  for (const ordered_json& value : *found)
    sum += value.is_number() ? value.get<double>() : kNone;
  return sum / static_cast<double>(found->size());
}

std::string overflow_detail(const ordered_json& line) {
  const double rank = number_or_none(line, "overflow_rank");
  std::string text = std::isnan(rank) ? "only the sum over ranks" : fmt::format("rank {}", rank);
  const std::string bucket = text_or(line, "overflow_bucket", "");
  const std::string tensor = text_or(line, "overflow_tensor", bucket);
  return tensor.empty() ? text : text + ", " + tensor;
}

std::string spike_detail(const ordered_json& line) {
  return fmt::format("{} {:.4g}, median {:.4g}, limit {:.4g}; largest gradient in {}",
                     text_or(line, "quantity", "value"), number_or_none(line, "value"),
                     number_or_none(line, "median"), number_or_none(line, "limit"),
                     text_or(line, "largest_tensor", "?"));
}

// Of two lines of a step the later one stands.
void add_later(Curve& curve, double step, double value) {
  curve.cut(step);
  curve.add(step, value);
}

[[noreturn]] void fail(const LineFollower& file, const std::string& what) {
  throw core::Error(
      core::ErrorKind::kData,
      fmt::format("{}:{}: {}; the file was altered", file.path().string(), file.lines() + 1, what));
}

}  // namespace

RunCurves::RunCurves(std::filesystem::path directory)
    : directory_(std::move(directory)),
      metrics_(directory_ / "metrics.jsonl"),
      ledger_(directory_ / "ledger.jsonl") {
  forget_metrics();
}

void RunCurves::forget_metrics() {
  curves_.clear();
  step_curves_.clear();
  for (const StepField& field : kStepFields)
    step_curves_.push_back(&curves_[field.curve]);
  layers_ = {};
  details_.clear();
  run_line_ = memory_line_ = nullptr;
  last_step_ = 0;
}

bool RunCurves::refresh() {
  const Followed metrics = metrics_.follow([this] { forget_metrics(); },
                                           [this](std::string_view line) { take_metrics(line); });
  const Followed ledger = ledger_.follow([this] { unapplied_.clear(); },
                                         [this](std::string_view line) { take_ledger(line); });
  return metrics != Followed::kNothing || ledger != Followed::kNothing;
}

const Curve& RunCurves::curve(const std::string& name) const {
  static const Curve kNoPoints;
  const auto found = curves_.find(name);
  return found == curves_.end() ? kNoPoints : found->second;
}

void RunCurves::take_metrics(std::string_view line) {
  if (line.starts_with(R"({"event":"step",)")) return take_step(line);
  const ordered_json json = ordered_json::parse(line, nullptr, false);
  if (!json.is_object()) fail(metrics_, "expected a JSON object");
  take_event(json);
}

void RunCurves::forget_from(double step) {
  for (auto& [name, curve] : curves_)
    curve.cut(step);
  details_.erase(details_.lower_bound(static_cast<std::int64_t>(step)), details_.end());
  auto& steps = layers_.steps;
  steps.erase(std::lower_bound(steps.begin(), steps.end(), step), steps.end());
  for (auto& [statistic, rows] : layers_.values) {
    for (std::vector<double>& row : rows)
      row.resize(std::min(row.size(), steps.size()));
  }
}

void RunCurves::take_step(std::string_view text) {
  FlatLine line(text);
  const double step = line.number("\"step\":");
  if (!(step >= 1.0)) fail(metrics_, "expected a step line with its step");
  if (step <= static_cast<double>(last_step_)) forget_from(step);
  for (std::size_t k = 0; k < kStepFields.size(); ++k)
    step_curves_[k]->add(step, line.number(kStepFields[k].member));
  // Steps between two lines are like the second one.
  Curve& tokens = curves_["tokens"];
  Curve& seconds = curves_["seconds"];
  const double steps = step - (tokens.empty() ? 0.0 : tokens.x.back());
  const auto sum = [](const Curve& curve) { return curve.empty() ? 0.0 : curve.y.back(); };
  const auto counted = [steps](double value) { return std::isnan(value) ? 0.0 : steps * value; };
  tokens.add(step, sum(tokens) + counted(line.number("\"tokens\":")));
  seconds.add(step, sum(seconds) + counted(line.number("\"step_seconds\":")));
  last_step_ = static_cast<std::int64_t>(step);
  if (line.flag("\"overflow\":")) {
    add_later(curves_["overflow"], step, step_curves_[4]->y.back());
    details_[last_step_] = overflow_detail(ordered_json::parse(text, nullptr, false));
  }
}

void RunCurves::take_event(const ordered_json& line) {
  const std::string event = text_or(line, "event", "");
  const double step = number_or_none(line, "step");
  if (event == "run") {
    run_line_ = line;
  } else if (event == "memory") {
    memory_line_ = line;
  } else if (event == "validation" && step >= 0.0) {
    add_later(curves_["validation"], step, number_or_none(line, "loss"));
    if (line.contains("ema_loss"))
      add_later(curves_["ema_validation"], step, number_or_none(line, "ema_loss"));
  } else if (event == "timing" && step >= 0.0) {
    for (const char* name : kTimingFields)
      add_later(curves_[name], step, mean(line, name));
  } else if (event == "layers" && step >= 0.0) {
    take_layers(line);
  } else if (event == "health" && line.contains("quantity") && step >= 0.0) {
    details_[static_cast<std::int64_t>(step)] = spike_detail(line);
  }
}

void RunCurves::take_layers(const ordered_json& line) {
  const auto layers = line.find("layers");
  if (layers == line.end() || !layers->is_array()) return;
  const double step = number_or_none(line, "step");
  if (layers_.steps.empty() || layers_.steps.back() < step) layers_.steps.push_back(step);
  for (const ordered_json& layer : *layers) {
    const std::string name = text_or(layer, "name", "?");
    auto place = std::find(layers_.names.begin(), layers_.names.end(), name);
    if (place == layers_.names.end()) place = layers_.names.insert(place, name);
    const auto index = static_cast<std::size_t>(place - layers_.names.begin());
    for (const auto& [statistic, value] : layer.items()) {
      if (!value.is_number()) continue;
      auto& rows = layers_.values[statistic];
      if (rows.size() <= index) rows.resize(index + 1);
      rows[index].resize(layers_.steps.size(), kNone);
      rows[index].back() = value.get<double>();
    }
  }
}

void RunCurves::take_ledger(std::string_view line) {
  constexpr std::string_view kApplied = R"("outcome":"applied")";
  if (line.find(kApplied) != std::string_view::npos) return;
  const ordered_json json = ordered_json::parse(line, nullptr, false);
  if (!json.is_object()) fail(ledger_, "expected a JSON object");
  UnappliedStep step;
  step.step = static_cast<std::int64_t>(number_or_none(json, "step"));
  step.outcome = text_or(json, "outcome", "?");
  step.loss_scale = number_or_none(json, "loss_scale");
  step.next_loss_scale = number_or_none(json, "next_loss_scale");
  unapplied_.push_back(std::move(step));
}

std::string RunCurves::reason(const UnappliedStep& step) const {
  std::string text;
  if (step.outcome == "diverged") text = "a loss that is not finite";
  if (step.outcome == "no_tokens") text = "no target token was counted";
  if (step.outcome == "left_out") text = "left out after a rollback";
  if (const auto found = details_.find(step.step); found != details_.end()) text = found->second;
  if (step.next_loss_scale != step.loss_scale)
    text += fmt::format(", scale {:.15g} -> {:.15g}", step.loss_scale, step.next_loss_scale);
  return text;
}

}  // namespace lockstep::runtime
