#include "runtime/health/straggler_watch.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/check.h"

namespace lockstep::runtime {

namespace {

// The lower one of two: a slow rank must not raise what it is measured by.
double lower_median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>((values.size() - 1) / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

const char* name_of(Straggler::Phase phase) {
  return phase == Straggler::Phase::kData ? "data" : "compute";
}

std::string Straggler::describe() const {
  return fmt::format("rank {} is slow: {} {:.3g} ms against a median of {:.3g} ms over {} steps",
                     rank, name_of(phase), seconds * 1e3, median * 1e3, StragglerWatch::kWindow);
}

StragglerWatch::StragglerWatch(int world_size)
    : world_size_(world_size), told_(static_cast<std::size_t>(world_size), 0) {
  for (std::vector<char>& step : slow_)
    step.resize(static_cast<std::size_t>(world_size));
}

std::vector<Straggler> StragglerWatch::observe(std::span<const StepTiming> timings) {
  LOCKSTEP_CHECK_EQ(timings.size(), static_cast<std::size_t>(world_size_), "timings of a step");
  const auto slot = static_cast<std::size_t>(observed_ % kWindow);
  window_[slot].assign(timings.begin(), timings.end());
  std::vector<double> busy;
  for (const StepTiming& timing : timings)
    busy.push_back(timing.busy());
  const double limit =
      std::max(lower_median(busy) * kSlowFactor, lower_median(busy) + kSlowSeconds);
  for (std::size_t r = 0; r < busy.size(); ++r)
    slow_[slot][r] = busy[r] > limit;
  ++observed_;

  std::vector<Straggler> found;
  if (observed_ < kWindow) return found;
  for (int rank = 0; rank < world_size_; ++rank) {
    std::int64_t& told = told_[static_cast<std::size_t>(rank)];
    if (!is_straggler(rank) || (told > 0 && observed_ - told < kQuietSteps)) continue;
    told = observed_;
    found.push_back(describe(rank));
  }
  return found;
}

bool StragglerWatch::is_straggler(int rank) const {
  const auto times = std::count_if(slow_.begin(), slow_.end(), [&](const std::vector<char>& step) {
    return step[static_cast<std::size_t>(rank)] != 0;
  });
  return times >= kSlowSteps;
}

Straggler StragglerWatch::describe(int rank) const {
  using Phase = Straggler::Phase;
  const auto excess = [&](Phase phase) { return mean(rank, phase) - median_of_means(phase); };
  const Phase phase =
      excess(Phase::kData) > excess(Phase::kCompute) ? Phase::kData : Phase::kCompute;
  return {rank, phase, mean(rank, phase), median_of_means(phase)};
}

double StragglerWatch::mean(int rank, Straggler::Phase phase) const {
  double sum = 0.0;
  for (const std::vector<StepTiming>& step : window_) {
    const StepTiming& timing = step[static_cast<std::size_t>(rank)];
    sum += phase == Straggler::Phase::kData ? timing.data : timing.compute;
  }
  return sum / kWindow;
}

double StragglerWatch::median_of_means(Straggler::Phase phase) const {
  std::vector<double> means;
  for (int rank = 0; rank < world_size_; ++rank)
    means.push_back(mean(rank, phase));
  return lower_median(std::move(means));
}

}  // namespace lockstep::runtime
