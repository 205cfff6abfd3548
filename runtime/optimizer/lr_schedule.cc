#include "runtime/optimizer/lr_schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace lockstep::runtime {

namespace {

double cosine(double peak, double minimum, double progress) {
  return minimum + 0.5 * (peak - minimum) * (1.0 + std::cos(std::numbers::pi * progress));
}

double linear(double peak, double minimum, double progress) {
  return peak + (minimum - peak) * progress;
}

double warmup_stable_decay(const ScheduleConfig& schedule, double peak, std::int64_t t) {
  const std::int64_t decay_begin = schedule.total_steps - schedule.decay_steps;
  if (t <= decay_begin) return peak;
  const double progress =
      static_cast<double>(t - decay_begin) / static_cast<double>(schedule.decay_steps);
  return linear(peak, schedule.min_learning_rate, progress);
}

}  // namespace

double learning_rate_at(const ScheduleConfig& schedule, double peak, std::int64_t t) {
  const std::int64_t w = schedule.warmup_steps;
  if (t <= w) return peak * static_cast<double>(t) / static_cast<double>(w);
  const bool ends = schedule.name == ScheduleKind::kCosine ||
                    schedule.name == ScheduleKind::kLinear || schedule.name == ScheduleKind::kWsd;
  if (ends && t >= schedule.total_steps) return schedule.min_learning_rate;
  const double progress =
      static_cast<double>(t - w) / static_cast<double>(schedule.total_steps - w);
  switch (schedule.name) {
    case ScheduleKind::kCosine:
      return cosine(peak, schedule.min_learning_rate, progress);
    case ScheduleKind::kLinear:
      return linear(peak, schedule.min_learning_rate, progress);
    case ScheduleKind::kConstant:
      return peak;
    case ScheduleKind::kStep:
      return peak * std::pow(schedule.gamma, static_cast<double>((t - w - 1) / schedule.step_size));
    case ScheduleKind::kInverseSqrt:
      return peak *
             std::sqrt(static_cast<double>(std::max<std::int64_t>(w, 1)) / static_cast<double>(t));
    case ScheduleKind::kWsd:
      return warmup_stable_decay(schedule, peak, t);
  }
  return peak;
}

}  // namespace lockstep::runtime
