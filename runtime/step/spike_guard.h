#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

namespace lockstep::runtime {

// Finds steps whose loss or gradient norm leaps out of what the run has lately seen. Pure, and fed
// only with what all ranks agree on (the loss and the norm of a StepDecision), so all ranks judge
// alike; its state is part of DecisionState and so of every checkpoint.
//
// The window holds loss and norm of the last kSpikeWindow healthy steps: those that were applied. A
// step that was not (spike, diverged, overflow, no tokens, left out) never enters it, so neither a
// spike nor a NaN can raise the limit. With median m and MAD d = median(|x - m|) of the window, a
// step is a spike when its loss or its norm exceeds
//
//   limit = m + f * max(1.4826 d, floor)
//
//   f                   health.spike_factor; half of it for a step right behind a spike
//   floor of the loss   max(0.02 |m|, 0.05)
//   floor of the norm   max(m, 0.1)
//
// 1.4826 d estimates the standard deviation of normal values. The floors are what a factor
// multiplies at the least: a window without any spread (d = 0) must not fire on nothing, a loss has
// to leap by a fifth and by half a unit at the default factor of 10, and a norm, whose distribution
// has a long tail and which clipping tames, to eleven times its median and by 1. Only leaps upwards
// count. Nothing is a spike before the window holds kSpikeLeastSteps steps.
//
// What leaps and stays is no spike but a new level, as when the data change for good: the
// kLevelSteps-th such step in a row is applied, and these steps become the window. A spike is over,
// and known for one, when a step is back below its limit before.
inline constexpr std::size_t kSpikeWindow = 64;
inline constexpr std::size_t kSpikeLeastSteps = 16;
inline constexpr std::size_t kLevelSteps = 4;

// The newest values, oldest first, at most kMost of them. Plain bytes, and constexpr, so that a
// device can keep one too.
template <std::size_t kMost>
class ValueWindow {
 public:
  constexpr ValueWindow() = default;
  constexpr ValueWindow(std::initializer_list<double> values) {
    for (const double value : values)
      push(value);
  }

  constexpr void push(double value) {
    if (count_ == kMost) {
      for (std::size_t i = 1; i < kMost; ++i)
        values_[i - 1] = values_[i];
      --count_;
    }
    values_[count_++] = value;
  }

  constexpr void clear() {
    for (std::size_t i = 0; i < count_; ++i)
      values_[i] = 0.0;
    count_ = 0;
  }

  constexpr std::size_t size() const { return count_; }
  constexpr double operator[](std::size_t i) const { return values_[i]; }
  constexpr double back() const { return values_[count_ - 1]; }
  std::vector<double> values() const { return {values_.begin(), values_.begin() + count_}; }

  bool operator==(const ValueWindow&) const = default;

 private:
  std::array<double, kMost> values_{};
  std::size_t count_ = 0;
};
using SpikeWindow = ValueWindow<kSpikeWindow>;
using LevelWindow = ValueWindow<kLevelSteps>;

struct SpikeGuardState {
  SpikeWindow losses;  // of healthy steps, all finite
  SpikeWindow norms;   // of the same steps
  // Of the spikes since the last healthy step, fewer than kLevelSteps.
  LevelWindow spike_losses;
  LevelWindow spike_norms;

  constexpr std::size_t spikes() const { return spike_losses.size(); }

  bool operator==(const SpikeGuardState&) const = default;
};

enum class SpikeQuantity : std::uint8_t { kNone, kLoss, kNorm };
const char* name_of(SpikeQuantity quantity);  // "none", "loss", "grad_norm"

struct SpikeVerdict {
  SpikeQuantity quantity = SpikeQuantity::kNone;  // what leapt; the loss if both did
  double value = 0.0;
  double median = 0.0;  // of the window
  double mad = 0.0;
  double factor = 0.0;
  double limit = 0.0;
  std::int64_t healthy_steps = 0;  // in the window

  bool found() const { return quantity != SpikeQuantity::kNone; }
  // "loss 7.31 is above 3.62 (median 3.02, MAD 0.04 of 64 healthy steps)"
  std::string describe() const;
};

// What loss and norm may not exceed. `judges` is false where nothing is a spike: the guard is off,
// or the window too short.
struct SpikeLimits {
  bool judges = false;
  double loss = 0.0;
  double norm = 0.0;
};

// Whether there is a limit at all. `factor`: health.spike_factor; 0: never a spike.
constexpr bool spike_guard_judges(double factor, const SpikeGuardState& state) {
  return factor > 0.0 && state.losses.size() >= kSpikeLeastSteps;
}

// The factor that counts in this state.
constexpr double spike_factor_now(double factor, const SpikeGuardState& state) {
  return state.spikes() > 0 ? factor / 2.0 : factor;
}

// Whether a step that leaps makes a level of those before it.
constexpr bool completes_level(const SpikeGuardState& state) {
  return state.spikes() + 1 >= kLevelSteps;
}

// The limit of a quantity from the median and the MAD of its window.
constexpr double spike_limit(SpikeQuantity quantity, double factor, double median, double mad) {
  const bool loss = quantity == SpikeQuantity::kLoss;
  const double of_median = (loss ? 0.02 : 1.0) * (median < 0.0 ? -median : median);
  const double floor = std::max(of_median, loss ? 0.05 : 0.1);
  const double spread = std::max(1.4826 * mad, floor);
  return median + factor * spread;
}

// The limits that a window sets.
SpikeLimits spike_limits(double factor, const SpikeGuardState& state);

// What of a finite step leaps; the loss if both do.
constexpr SpikeQuantity spiking(const SpikeLimits& limits, double loss, double norm) {
  if (!limits.judges) return SpikeQuantity::kNone;
  if (loss > limits.loss) return SpikeQuantity::kLoss;
  return norm > limits.norm ? SpikeQuantity::kNorm : SpikeQuantity::kNone;
}

// Judges a step that is finite and not applied yet, and says from what.
SpikeVerdict judge_step(double factor, const SpikeGuardState& state, double loss, double norm);

// Notes a healthy step, in place: a copy of the windows is more than a thread of a device has room
// for. With factor 0 the windows are emptied.
constexpr void note_healthy_step(double factor, SpikeGuardState& state, double loss, double norm) {
  state.spike_losses.clear();
  state.spike_norms.clear();
  if (factor <= 0.0) {
    state.losses.clear();
    state.norms.clear();
    return;
  }
  state.losses.push(loss);
  state.norms.push(norm);
}

// Notes a spike.
constexpr void note_spike(SpikeGuardState& state, double loss, double norm) {
  state.spike_losses.push(loss);
  state.spike_norms.push(norm);
}

// Notes the step that completes a level: it and the spikes before it become the window.
constexpr void note_level(SpikeGuardState& state, double loss, double norm) {
  note_spike(state, loss, norm);
  state.losses.clear();
  state.norms.clear();
  for (std::size_t i = 0; i < state.spikes(); ++i) {
    state.losses.push(state.spike_losses[i]);
    state.norms.push(state.spike_norms[i]);
  }
  state.spike_losses.clear();
  state.spike_norms.clear();
}

constexpr SpikeGuardState after_healthy_step(double factor, const SpikeGuardState& state,
                                             double loss, double norm) {
  SpikeGuardState next = state;
  note_healthy_step(factor, next, loss, norm);
  return next;
}

// The middle value, or the mean of the two middle ones. Of at least one value.
double median_of(std::vector<double> values);
// That mean; lower <= upper.
constexpr double mean_of_middle(double lower, double upper) {
  return lower + (upper - lower) / 2.0;
}

}  // namespace lockstep::runtime
