#include "runtime/step/loss_scaler.h"

#include <algorithm>

namespace lockstep::runtime {

LossScaleState initial_loss_scale(const LossScaleConfig& rules) {
  return {rules.mode == LossScaleMode::kNone ? 1.0 : rules.initial, 0, rules.hysteresis};
}

LossScaleState after_overflow(const LossScaleConfig& rules, LossScaleState state) {
  if (rules.mode != LossScaleMode::kDynamic) return state;
  state.good = 0;
  state.left -= 1;
  if (state.left <= 0) state.scale = std::max(rules.minimum, state.scale * rules.backoff_factor);
  return state;
}

LossScaleState after_applied(const LossScaleConfig& rules, LossScaleState state) {
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
