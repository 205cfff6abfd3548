#pragma once

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

LossScaleState initial_loss_scale(const LossScaleConfig& rules);

// The state after a step that overflowed, or that was applied. Pure; in modes static and none
// nothing changes. A step that was neither (diverged, or without tokens) leaves the state alone:
// call neither.
LossScaleState after_overflow(const LossScaleConfig& rules, LossScaleState state);
LossScaleState after_applied(const LossScaleConfig& rules, LossScaleState state);

}  // namespace lockstep::runtime
