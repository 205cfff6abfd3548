#pragma once

#include <cstddef>
#include <cstdint>
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
//   limit = m + health.spike_factor * max(1.4826 d, floor)
//
//   floor of the loss   max(0.02 |m|, 0.05)
//   floor of the norm   max(m, 0.1)
//
// 1.4826 d estimates the standard deviation of normal values. The floors are what a factor
// multiplies at the least: a window without any spread (d = 0) must not fire on nothing, a loss has
// to leap by a fifth and by half a unit at the default factor of 10, and a norm, whose distribution
// has a long tail and which clipping tames, to eleven times its median and by 1. Only leaps upwards
// count. Nothing is a spike before the window holds kSpikeLeastSteps steps.
inline constexpr std::size_t kSpikeWindow = 64;
inline constexpr std::size_t kSpikeLeastSteps = 16;

struct SpikeGuardState {
  std::vector<double> losses;  // of healthy steps, oldest first; at most kSpikeWindow, all finite
  std::vector<double> norms;   // of the same steps

  bool operator==(const SpikeGuardState&) const = default;
};

enum class SpikeQuantity : std::uint8_t { kNone, kLoss, kNorm };
const char* name_of(SpikeQuantity quantity);  // "none", "loss", "grad_norm"

struct SpikeVerdict {
  SpikeQuantity quantity = SpikeQuantity::kNone;  // what leapt; the loss if both did
  double value = 0.0;
  double median = 0.0;  // of the window
  double mad = 0.0;
  double limit = 0.0;
  std::int64_t healthy_steps = 0;  // in the window

  bool found() const { return quantity != SpikeQuantity::kNone; }
  // "spike: loss 7.31 is above 3.62 (median 3.02, MAD 0.04 of 64 healthy steps)"
  std::string describe() const;
};

// Judges a step that is finite and not applied yet. `factor`: health.spike_factor; 0: never a
// spike.
SpikeVerdict judge_step(double factor, const SpikeGuardState& state, double loss, double norm);

// The state after a healthy step. With factor 0 the window is emptied.
SpikeGuardState after_healthy_step(double factor, SpikeGuardState state, double loss, double norm);

// The middle value, or the mean of the two middle ones. Of at least one value.
double median_of(std::vector<double> values);

}  // namespace lockstep::runtime
