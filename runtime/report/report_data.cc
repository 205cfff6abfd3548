#include "runtime/report/report_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include "core/json_text.h"

namespace lockstep::runtime {
namespace {

using nlohmann::ordered_json;

constexpr std::size_t kLayerColumns = 400;
constexpr std::size_t kAxisPoints = 500;
constexpr std::size_t kUnappliedRows = 1000;

std::string dump(const ordered_json& json) {
  return json.dump(-1, ' ', true, ordered_json::error_handler_t::replace);
}

// Zoomed in, a slow schedule still moves in the seventh digit; a step needs all of its own.
void append_numbers(std::string& text, const std::vector<double>& values, bool steps) {
  text += '[';
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (i > 0) text += ',';
    if (std::isnan(values[i])) {
      text += "null";
    } else if (steps) {
      fmt::format_to(std::back_inserter(text), "{:.15g}", values[i]);
    } else {
      fmt::format_to(std::back_inserter(text), "{:.9g}", values[i]);
    }
  }
  text += ']';
}

std::string curve_json(const Curve& curve) {
  std::string text = "[";
  append_numbers(text, curve.x, true);
  text += ',';
  append_numbers(text, curve.y, false);
  return text + "]";
}

std::string curves_json(const RunCurves& curves, const ReportView& view) {
  std::string text;
  for (const auto& [name, curve] : curves.curves()) {
    if (curve.empty() || name == "tokens" || name == "seconds") continue;
    text += fmt::format("{}\"{}\":{}", text.empty() ? "" : ",", name,
                        curve_json(thin_out(curve, view.from, view.to, view.points)));
  }
  return "{" + text + "}";
}

// Of the columns that share a place the greatest value: what stands out is seen.
std::string layers_json(const LayerHistory& layers, const ReportView& view) {
  std::vector<std::size_t> shown;
  for (std::size_t k = 0; k < layers.steps.size(); ++k)
    if (layers.steps[k] >= view.from && layers.steps[k] <= view.to) shown.push_back(k);
  const std::size_t columns = std::min(shown.size(), kLayerColumns);
  const auto first = [&](std::size_t column) { return shown.size() * column / columns; };
  std::vector<double> steps(columns);
  for (std::size_t column = 0; column < columns; ++column)
    steps[column] = layers.steps[shown[first(column)]];
  std::string text = fmt::format("{{\"names\":{},\"steps\":", dump(layers.names));
  append_numbers(text, steps, true);
  text += ",\"values\":{";
  for (const auto& [statistic, rows] : layers.values) {
    text += fmt::format("{}{}:[", text.ends_with('{') ? "" : ",", core::json_string(statistic));
    for (const std::vector<double>& row : rows) {
      std::vector<double> values(columns, std::nan(""));
      for (std::size_t column = 0; column < columns; ++column) {
        for (std::size_t k = first(column); k < first(column + 1); ++k)
          if (shown[k] < row.size()) values[column] = std::fmax(values[column], row[shown[k]]);
      }
      if (&row != &rows.front()) text += ',';
      append_numbers(text, values, false);
    }
    text += ']';
  }
  return text + "}}";
}

ordered_json unapplied_json(const RunCurves& curves) {
  ordered_json counts = ordered_json::object();
  ordered_json rows = ordered_json::array();
  const std::vector<UnappliedStep>& steps = curves.unapplied();
  for (const UnappliedStep& step : steps)
    counts[step.outcome] = counts.value(step.outcome, 0) + 1;
  const std::size_t begin = steps.size() - std::min(steps.size(), kUnappliedRows);
  for (std::size_t i = begin; i < steps.size(); ++i)
    rows.push_back({steps[i].step, steps[i].outcome, curves.reason(steps[i])});
  return {{"counts", counts}, {"rows", rows}};
}

double last_of(const Curve& curve) {
  for (auto y = curve.y.rbegin(); y != curve.y.rend(); ++y)
    if (!std::isnan(*y)) return *y;
  return std::nan("");
}

double least_of(const Curve& curve) {
  double least = std::nan("");
  for (const double y : curve.y)
    least = std::fmin(least, y);
  return least;
}

std::string share_clipped(const Curve& coefficient) {
  std::size_t applied = 0, clipped = 0;
  for (const double y : coefficient.y) {
    applied += std::isnan(y) ? 0 : 1;
    clipped += y < 1.0 ? 1 : 0;
  }
  if (applied == 0) return "";
  return fmt::format("{:.1f} %",
                     100.0 * static_cast<double>(clipped) / static_cast<double>(applied));
}

std::string duration(double seconds) {
  const auto whole = static_cast<long>(seconds);
  if (whole < 60) return fmt::format("{:.1f} s", seconds);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole / 60 % 60);
}

std::string bytes(const ordered_json& line, const char* name) {
  const double value = line.is_object() ? line.value(name, 0.0) : 0.0;
  if (value <= 0.0) return "";
  const bool large = value >= 1024.0 * 1024.0 * 1024.0;
  return fmt::format("{:.2f} {}", value / (large ? 1073741824.0 : 1048576.0),
                     large ? "GiB" : "MiB");
}

ordered_json facts_json(const ReportRun& run) {
  const RunCurves& h = run.curves;
  ordered_json facts = ordered_json::array();
  const auto add = [&](const char* name, const std::string& text) {
    if (!text.empty()) facts.push_back({name, text});
  };
  const auto loss = [&](const char* name, double value) {
    add(name, std::isnan(value) ? "" : fmt::format("{:.4f}", value));
  };
  const std::string total = run.config ? fmt::format(" of {}", run.config->train.steps) : "";
  add("steps", fmt::format("{}{}", h.steps(), total));
  add("not applied", h.unapplied().empty() ? "0" : std::to_string(h.unapplied().size()));
  add("tokens", h.steps() > 0 ? fmt::format("{:.4g}", last_of(h.curve("tokens"))) : "");
  add("time in steps", h.steps() > 0 ? duration(last_of(h.curve("seconds"))) : "");
  loss("train loss", last_of(h.curve("loss")));
  loss("validation loss", last_of(h.curve("validation")));
  loss("least validation loss", least_of(h.curve("validation")));
  loss("of averaged weights", last_of(h.curve("ema_validation")));
  add("clipped steps", share_clipped(h.curve("clip_coefficient")));
  add("memory planned", bytes(h.memory_line(), "planned_bytes"));
  add("memory used", bytes(h.memory_line(), "peak_bytes"));
  add("ranks", run.ranks() > 0 ? std::to_string(run.ranks()) : "");
  return facts;
}

std::string number_json(double value) {
  return std::isnan(value) ? "null" : fmt::format("{:.15g}", value);
}

std::string run_json(const ReportRun& run, const ReportView& view) {
  const RunCurves& h = run.curves;
  const bool norm_is_clipped = run.config && run.config->clip.mode == ClipMode::kGlobalNorm;
  const auto axis = [&](const char* name) {
    return curve_json(thin_out(h.curve(name), -INFINITY, INFINITY, kAxisPoints));
  };
  return fmt::format(
      R"({{"label":{},"path":{},"steps":{},"total_steps":{},"tokens":{},)"
      R"("seconds":{},"clip_threshold":{},"facts":{},"curves":{},"axes":{{"tokens":{},"seconds":{}}},)"
      R"("layers":{},"unapplied":{},"findings":{}}})",
      core::json_string(run.label),
      core::json_string(std::filesystem::absolute(h.directory()).string()), h.steps(),
      run.config ? std::to_string(run.config->train.steps) : "null",
      number_json(last_of(h.curve("tokens"))), number_json(last_of(h.curve("seconds"))),
      norm_is_clipped ? core::json_number(run.config->clip.threshold) : "null",
      dump(facts_json(run)), curves_json(h, view), axis("tokens"), axis("seconds"),
      layers_json(h.layers(), view), dump(unapplied_json(h)), dump(run.findings));
}

}  // namespace

std::string report_json(const std::vector<ReportRun>& runs, const ReportView& view) {
  std::string text = "{\"version\":1,\"runs\":[";
  std::vector<const ReportRun*> all;
  for (const ReportRun& run : runs) {
    if (!all.empty()) text += ',';
    text += run_json(run, view);
    all.push_back(&run);
  }
  ordered_json keys = ordered_json::array();
  for (const DifferingKey& key : differing_keys(all))
    keys.push_back({{"key", key.key}, {"values", key.values}});
  text += "],\"config\":" + dump(keys) + "}";
  std::string safe;  // '<' stands in strings only
  for (const char c : text)
    c == '<' ? safe.append("\\u003c") : safe.append(1, c);
  return safe;
}

}  // namespace lockstep::runtime
