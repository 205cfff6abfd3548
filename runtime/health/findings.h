#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/health/doctor.h"

// One function for each kind of finding; nothing where the run does not suffer from it. diagnose()
// fills in kind and replay.
namespace lockstep::runtime {

using FindingRule = std::optional<Finding> (*)(const RunHistory& history);

// Of gradients and activations, by layer (gradient_findings.cc).
std::optional<Finding> find_vanishing_gradients(const RunHistory& history);
std::optional<Finding> find_exploding_gradients(const RunHistory& history);
std::optional<Finding> find_not_finite(const RunHistory& history);
std::optional<Finding> find_dead_units(const RunHistory& history);

// Of the loss curve (curve_findings.cc).
std::optional<Finding> find_loss_spikes(const RunHistory& history);
std::optional<Finding> find_oscillation(const RunHistory& history);
std::optional<Finding> find_plateau(const RunHistory& history);
std::optional<Finding> find_overfitting(const RunHistory& history);

// Of learning rate, clipping and loss scale (control_findings.cc).
std::optional<Finding> find_clipping_always(const RunHistory& history);
std::optional<Finding> find_clipping_never(const RunHistory& history);
std::optional<Finding> find_loss_scale_thrash(const RunHistory& history);
std::optional<Finding> find_loss_scale_sinking(const RunHistory& history);
std::optional<Finding> find_learning_rate_too_high(const RunHistory& history);
std::optional<Finding> find_learning_rate_too_low(const RunHistory& history);

// Of time and memory (speed_findings.cc).
std::optional<Finding> find_slow_data(const RunHistory& history);
std::optional<Finding> find_slow_rank(const RunHistory& history);
std::optional<Finding> find_memory_near_limit(const RunHistory& history);

// Tools of these rules (series.cc). NaNs are left out of medians; NaN of nothing.
double median(std::vector<double> values);
// The middle half of the distribution, as a standard deviation: 1.4826 * median |x - median|.
double robust_deviation(const std::vector<double>& values);
std::vector<StepPoint> applied_steps(const RunHistory& history);
// f of each of these points.
template <typename F>
std::vector<double> values_of(std::span<const StepPoint> points, F&& f) {
  std::vector<double> values;
  for (const StepPoint& point : points)
    values.push_back(f(point));
  return values;
}
// Part i of n equal parts of the points.
std::span<const StepPoint> part_of(std::span<const StepPoint> points, std::size_t i, std::size_t n);
// Whether a layer is a block: "block.3".
bool is_block(const std::string& layer);
// Over the second half of the `layers` lines, by layer: the median of a statistic.
struct LayerMedian {
  std::string layer;
  double value = 0.0;
};
std::vector<LayerMedian> layer_medians(const RunHistory& history, double Measured::*statistic);
// "key=value" with the number in its shortest form.
std::string set_number(const std::string& key, double value);

// Changes that several findings advise (advice.cc). add_bf16 and add_warmup add nothing where the
// configuration would refuse it.
Advice lower_learning_rate(const Config& config, double factor, const std::string& why);
void add_warmup(const Config& config, const std::string& why, std::vector<Advice>& advice);
void add_bf16(const Config& config, const std::string& why, std::vector<Advice>& advice);
// Without those that the run's configuration refuses, or has already.
std::vector<Advice> applicable(const Config& config, const std::vector<Advice>& advice);

}  // namespace lockstep::runtime
