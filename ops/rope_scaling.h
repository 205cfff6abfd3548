#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

namespace lockstep::ops {

enum class RopeScalingKind { kNone, kLinear, kLlama3 };

// How rotary frequencies f = theta^(-2i/D) are stretched for longer contexts, as rope_scaling of
// Hugging Face's Transformers. linear: f / factor. llama3 (Dubey et al. 2024), by wavelength
// w = 2 pi / f: f / factor beyond original_context / low_freq_factor, f below original_context /
// high_freq_factor, and between the two a mean of both, linear in original_context / w.
struct RopeScaling {
  RopeScalingKind kind = RopeScalingKind::kNone;
  double factor = 0.0;                // linear and llama3; 0: not given
  double low_freq_factor = 0.0;       // llama3
  double high_freq_factor = 0.0;      // llama3; above the low one
  std::int64_t original_context = 0;  // llama3: original_max_position_embeddings

  bool operator==(const RopeScaling&) const = default;
};

inline double scaled_frequency(const RopeScaling& scaling, double frequency) {
  if (scaling.kind == RopeScalingKind::kNone) return frequency;
  const double slow = frequency / scaling.factor;
  if (scaling.kind == RopeScalingKind::kLinear) return slow;
  const double turns =  // of the angle over the original context
      static_cast<double>(scaling.original_context) * frequency / (2.0 * std::numbers::pi);
  if (turns < scaling.low_freq_factor) return slow;
  if (turns > scaling.high_freq_factor) return frequency;
  const double smooth =
      (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
  return (1.0 - smooth) * slow + smooth * frequency;
}

}  // namespace lockstep::ops
