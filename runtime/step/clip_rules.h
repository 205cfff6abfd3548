#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "runtime/config/config.h"

// The clip coefficients of an applied step, and what the adaptive modes remember of the steps
// before it. Plain bytes and constexpr functions, for the host and for devices. A step that is not
// applied never comes here: one NaN in the statistics would switch clipping off for good.
namespace lockstep::runtime {

// Added to a norm that divides, as in PyTorch's clip_grad_norm_.
inline constexpr double kClipEps = 1e-6;
// zclip: the standard deviation counts as at least this part of the mean, so that a norm which
// never moved does not make a spike of the first that does.
inline constexpr double kZClipLeastSpread = 1e-3;

// What clip.mode zclip and adagc carry from step to step, beside adagc's reference norm of every
// tensor.
struct ClipState {
  ClipMode mode = ClipMode::kNone;  // that these numbers are of; under another they start afresh
  std::int64_t seen = 0;            // applied steps so far
  double mean = 0.0;                // zclip: of the global norm
  double variance = 0.0;  // zclip: of the global norm; during warm-up, that of `seen` steps

  bool operator==(const ClipState&) const = default;
};

constexpr bool is_adaptive(ClipMode mode) {
  return mode == ClipMode::kZClip || mode == ClipMode::kAdaGc;
}
constexpr bool clips_by_tensor(ClipMode mode) {
  return mode == ClipMode::kTensorNorm || mode == ClipMode::kAdaGc;
}

constexpr ClipState clip_state_for(ClipMode mode, const ClipState& state) {
  return state.mode == mode ? state : ClipState{mode};
}

// min(1, threshold / (norm + 1e-6)), as PyTorch's clip_grad_norm_.
constexpr double clip_coefficient(double norm, double threshold) {
  return std::min(1.0, threshold / (norm + kClipEps));
}

// ZClip (Kumar et al. 2025, arXiv 2504.02507, mode zscore): the norm that a step may have. A norm
// whose z-score exceeds z_threshold is brought to mean + spread * z_threshold^2 / z, the closer to
// the mean the higher it leaps; any other is its own limit, as all are during warm-up.
constexpr double zclip_limit(const ClipConfig& rules, const ClipState& state, double norm) {
  if (state.seen < rules.warmup_steps) return norm;
  const double spread = std::max(std::sqrt(state.variance), kZClipLeastSpread * state.mean);
  const double z = (norm - state.mean) / (spread + kClipEps);
  if (!(z > rules.z_threshold)) return norm;
  return state.mean + rules.z_threshold * spread / (z / rules.z_threshold);
}

// The coefficient of all tensors alike. global_norm; zclip, under the constant `threshold` too;
// adagc during warm-up. 1 otherwise. state: clip_state_for() the mode, before the step.
constexpr double common_coefficient(const ClipConfig& rules, const ClipState& state, double norm) {
  switch (rules.mode) {
    case ClipMode::kGlobalNorm:
      return clip_coefficient(norm, rules.threshold);
    case ClipMode::kZClip: {
      const double limit = std::min(zclip_limit(rules, state, norm), rules.threshold);
      return norm > limit ? limit / (norm + kClipEps) : 1.0;
    }
    case ClipMode::kAdaGc:
      return state.seen < rules.warmup_steps ? clip_coefficient(norm, rules.threshold) : 1.0;
    default:
      return 1.0;
  }
}

// The state after an applied step with this global norm. Warm-up takes mean and population variance
// of its steps (Welford's recurrence); from then on zclip averages exponentially, the variance
// about the new mean, and what it clipped counts as what it was clipped to. Modes without a state:
// {}.
constexpr ClipState clip_state_after(const ClipConfig& rules, ClipState state, double norm) {
  if (!is_adaptive(rules.mode)) return {};
  state.seen += 1;
  if (rules.mode == ClipMode::kAdaGc) return state;
  if (state.seen <= rules.warmup_steps) {
    const auto n = static_cast<double>(state.seen);
    const double before = norm - state.mean;
    state.mean = state.mean + before / n;
    state.variance = state.variance + (before * (norm - state.mean) - state.variance) / n;
    return state;
  }
  ClipState warm = state;
  warm.seen -= 1;
  const double x = zclip_limit(rules, warm, norm);
  const double keep = rules.window_decay;
  state.mean = keep * state.mean + (1.0 - keep) * x;
  const double distance = x - state.mean;
  state.variance = keep * state.variance + (1.0 - keep) * (distance * distance);
  return state;
}

struct TensorClip {
  double coefficient = 1.0;
  double reference = 0.0;  // adagc: the tensor's, for the next step
};

// The coefficient of one tensor with this norm, in an applied step. next: the state after the step.
// common: common_coefficient().
//   tensor_norm  min(1, threshold / (norm + 1e-6))
//   adagc        (Wang et al. 2025, arXiv 2502.11034) during warm-up the common one, and the least
//                norm so clipped becomes the reference; then the norm may be ratio * reference, and
//                the reference is the exponential average of the norms as they were clipped.
// A norm of zero says nothing of a tensor: it neither becomes a reference, which would hold the
// tensor at zero for good, nor enters the average. reference 0: there is none yet.
constexpr TensorClip clip_tensor(const ClipConfig& rules, const ClipState& next, double common,
                                 double reference, double norm) {
  if (rules.mode == ClipMode::kTensorNorm)
    return {clip_coefficient(norm, rules.threshold), reference};
  if (next.seen <= 1) reference = 0.0;  // another mode's, or of another run
  const bool warming_up = next.seen <= rules.warmup_steps;
  if (norm == 0.0) return {common, reference};
  if (warming_up) {
    const double clipped = common * norm;
    return {common, reference == 0.0 ? clipped : std::min(reference, clipped)};
  }
  if (reference == 0.0) return {1.0, norm};
  const double limit = rules.ratio * reference;
  const double keep = rules.window_decay;
  return {norm > limit ? limit / (norm + kClipEps) : 1.0,
          keep * reference + (1.0 - keep) * std::min(norm, limit)};
}

}  // namespace lockstep::runtime
