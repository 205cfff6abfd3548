#include "runtime/health/spike_guard.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/check.h"

namespace lockstep::runtime {

namespace {

constexpr double kDeviationsPerMad = 1.4826;
constexpr double kLossFloorOfMedian = 0.02;
constexpr double kLossFloor = 0.05;
constexpr double kNormFloorOfMedian = 1.0;
constexpr double kNormFloor = 0.1;

SpikeVerdict judge(SpikeQuantity quantity, double factor, const std::vector<double>& window,
                   double value) {
  const bool loss = quantity == SpikeQuantity::kLoss;
  SpikeVerdict verdict;
  verdict.value = value;
  verdict.healthy_steps = static_cast<std::int64_t>(window.size());
  verdict.median = median_of(window);
  std::vector<double> distances;
  for (const double x : window)
    distances.push_back(std::abs(x - verdict.median));
  verdict.mad = median_of(std::move(distances));
  const double floor =
      std::max((loss ? kLossFloorOfMedian : kNormFloorOfMedian) * std::abs(verdict.median),
               loss ? kLossFloor : kNormFloor);
  verdict.limit = verdict.median + factor * std::max(kDeviationsPerMad * verdict.mad, floor);
  if (value > verdict.limit) verdict.quantity = quantity;
  return verdict;
}

void push(std::vector<double>& window, double value) {
  if (window.size() >= kSpikeWindow) window.erase(window.begin());
  window.push_back(value);
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
  return fmt::format(
      "spike: {} {:.6g} is above {:.6g} (median {:.6g}, MAD {:.3g} of {} healthy "
      "steps)",
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
  return lower + (upper - lower) / 2.0;
}

SpikeVerdict judge_step(double factor, const SpikeGuardState& state, double loss, double norm) {
  if (factor <= 0.0 || state.losses.size() < kSpikeLeastSteps) return {};
  const SpikeVerdict of_loss = judge(SpikeQuantity::kLoss, factor, state.losses, loss);
  return of_loss.found() ? of_loss : judge(SpikeQuantity::kNorm, factor, state.norms, norm);
}

SpikeGuardState after_healthy_step(double factor, SpikeGuardState state, double loss, double norm) {
  if (factor <= 0.0) return {};
  push(state.losses, loss);
  push(state.norms, norm);
  return state;
}

}  // namespace lockstep::runtime
