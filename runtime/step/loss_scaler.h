#pragma once

#include <algorithm>
#include <cstdint>

#include "runtime/config/config.h"

namespace lockstep::runtime {

// What of the loss scale changes from step to step; saved in checkpoints.
struct LossScaleState {
  double scale = 1.0;     // used by the next step; 1 without scaling
  std::int64_t good = 0;  // applied steps since the last change of the scale or overflow
  std::int64_t left = 1;  // overflows that may still come before the scale backs off

  bool operator==(const LossScaleState&) const = default;
};

inline constexpr double kMaximumLossScale = 16777216.0;  // 2^24: the scale is never infinite

constexpr LossScaleState initial_loss_scale(const LossScaleConfig& rules) {
  return {rules.mode == LossScaleMode::kNone ? 1.0 : rules.initial, 0, rules.hysteresis};
}

// The state after a step that overflowed, or that was applied. Pure; in modes static and none
// nothing changes. A step that was neither (diverged, or without tokens) leaves the state alone:
// call neither. constexpr, so that a device may decide too.
constexpr LossScaleState after_overflow(const LossScaleConfig& rules, LossScaleState state) {
  if (rules.mode != LossScaleMode::kDynamic) return state;
  state.good = 0;
  state.left -= 1;
  if (state.left <= 0) state.scale = std::max(rules.minimum, state.scale * rules.backoff_factor);
  return state;
}

constexpr LossScaleState after_applied(const LossScaleConfig& rules, LossScaleState state) {
  if (rules.mode != LossScaleMode::kDynamic) return state;
  state.good += 1;
  if (rules.hysteresis_mode == HysteresisMode::kConsecutive) state.left = rules.hysteresis;
  if (state.good == rules.growth_interval) {
    state.scale = std::min(state.scale * rules.growth_factor, kMaximumLossScale);
    state.good = 0;
    state.left = rules.hysteresis;
  }
  return state;
}

}  // namespace lockstep::runtime
