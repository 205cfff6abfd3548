#include "runtime/step/spike_guard.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/check.h"

namespace lockstep::runtime {

namespace {

struct Spread {
  double median;
  double mad;
};

Spread spread_of(const SpikeWindow& window) {
  Spread spread{median_of(window.values()), 0.0};
  std::vector<double> distances;
  for (const double x : window.values())
    distances.push_back(std::abs(x - spread.median));
  spread.mad = median_of(std::move(distances));
  return spread;
}

SpikeVerdict judge(SpikeQuantity quantity, double factor, const SpikeWindow& window, double value) {
  const Spread spread = spread_of(window);
  SpikeVerdict verdict;
  verdict.value = value;
  verdict.healthy_steps = static_cast<std::int64_t>(window.size());
  verdict.median = spread.median;
  verdict.mad = spread.mad;
  verdict.factor = factor;
  verdict.limit = spike_limit(quantity, factor, spread.median, spread.mad);
  if (value > verdict.limit) verdict.quantity = quantity;
  return verdict;
}

}  // namespace

const char* name_of(SpikeQuantity quantity) {
  switch (quantity) {
    case SpikeQuantity::kNone:
      return "none";
    case SpikeQuantity::kLoss:
      return "loss";
    case SpikeQuantity::kNorm:
      return "grad_norm";
  }
  return "?";
}

std::string SpikeVerdict::describe() const {
  return fmt::format("{} {:.6g} is above {:.6g} (median {:.6g}, MAD {:.3g} of {} healthy steps)",
                     name_of(quantity), value, limit, median, mad, healthy_steps);
}

double median_of(std::vector<double> values) {
  LOCKSTEP_CHECK(!values.empty(), "median of nothing");
  const std::size_t half = values.size() / 2;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(half);
  std::nth_element(values.begin(), middle, values.end());
  const double upper = *middle;
  if (values.size() % 2 == 1) return upper;
  const double lower = *std::max_element(values.begin(), middle);
  return mean_of_middle(lower, upper);
}

SpikeLimits spike_limits(double factor, const SpikeGuardState& state) {
  if (!spike_guard_judges(factor, state)) return {};
  const Spread loss = spread_of(state.losses);
  const Spread norm = spread_of(state.norms);
  const double now = spike_factor_now(factor, state);
  return {true, spike_limit(SpikeQuantity::kLoss, now, loss.median, loss.mad),
          spike_limit(SpikeQuantity::kNorm, now, norm.median, norm.mad)};
}

SpikeVerdict judge_step(double factor, const SpikeGuardState& state, double loss, double norm) {
  if (!spike_guard_judges(factor, state)) return {};
  const double now = spike_factor_now(factor, state);
  const SpikeVerdict of_loss = judge(SpikeQuantity::kLoss, now, state.losses, loss);
  return of_loss.found() ? of_loss : judge(SpikeQuantity::kNorm, now, state.norms, norm);
}

}  // namespace lockstep::runtime
