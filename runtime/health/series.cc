#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "runtime/health/findings.h"

namespace lockstep::runtime {

double median(std::vector<double> values) {
  std::erase_if(values, [](double value) { return std::isnan(value); });
  if (values.empty()) return Measured::kNothing;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double robust_deviation(const std::vector<double>& values) {
  const double center = median(values);
  std::vector<double> distances;
  for (const double value : values)
    distances.push_back(std::abs(value - center));
  return 1.4826 * median(std::move(distances));
}

std::vector<StepPoint> applied_steps(const RunHistory& history) {
  std::vector<StepPoint> applied;
  for (const StepPoint& point : history.steps) {
    if (point.applied()) applied.push_back(point);
  }
  return applied;
}

std::span<const StepPoint> part_of(std::span<const StepPoint> points, std::size_t i,
                                   std::size_t n) {
  const std::size_t begin = points.size() * i / n;
  return points.subspan(begin, points.size() * (i + 1) / n - begin);
}

bool is_block(const std::string& layer) {
  return layer.starts_with("block.");
}

std::vector<LayerMedian> layer_medians(const RunHistory& history, double Measured::*statistic) {
  std::vector<LayerMedian> medians;
  if (history.layers.empty()) return medians;
  const std::size_t first = history.layers.size() / 2;
  for (std::size_t i = 0; i < history.layers.back().layers.size(); ++i) {
    std::vector<double> values;
    for (std::size_t line = first; line < history.layers.size(); ++line) {
      if (i < history.layers[line].layers.size())
        values.push_back(history.layers[line].layers[i].*statistic);
    }
    medians.push_back({history.layers.back().layers[i].name, median(std::move(values))});
  }
  return medians;
}

std::string set_number(const std::string& key, double value) {
  return fmt::format("{}={}", key, value);
}

}  // namespace lockstep::runtime
