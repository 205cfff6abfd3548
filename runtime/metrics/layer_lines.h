#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace lockstep::runtime {

// What was measured of a layer (a group of parameters) or of one tensor in one step; the fields are
// those of the `layers` lines (docs/operations.md). NaN: nothing to tell, written as null.
struct Measured {
  static constexpr double kNothing = std::numeric_limits<double>::quiet_NaN();

  std::string name;
  double grad_norm = kNothing;
  double grad_max = kNothing;
  double zero_share = kNothing;
  double subnormal_share = kNothing;
  double fp16_underflow_share = kNothing;
  double fp16_overflow_share = kNothing;
  double weight_norm = kNothing;
  double update_ratio = kNothing;
  double activation_rms = kNothing;  // this one and those below: of layers only
  double activation_max = kNothing;
  double attention_logit_max = kNothing;
  double attention_entropy = kNothing;
  double dead_share = kNothing;
};

// How the magnitudes of a tensor's gradient are spread: elements with unit * 2^(first_exponent + i)
// <= |g| < twice that, by sign, without leading and trailing bins that are empty on both sides.
struct GradientHistogram {
  std::int64_t elements = 0;
  std::int64_t zeros = 0;
  int first_exponent = 0;
  std::vector<std::int64_t> negative;
  std::vector<std::int64_t> positive;
};

// One measured step, the same on every rank.
struct LayerReport {
  std::int64_t step = 0;
  double loss_scale = 1.0;
  double advised_loss_scale = Measured::kNothing;
  double fp16_underflow_share = Measured::kNothing;  // of the whole gradient
  double fp16_overflow_share = Measured::kNothing;
  std::int64_t applied_steps = 0;  // since the last `layers` line of this attempt
  std::int64_t clipped_steps = 0;  // of these
  std::vector<Measured> layers;
  // On steps with histograms, one entry for each trained tensor in both:
  double unit = 1.0;
  std::vector<Measured> tensors;
  std::vector<GradientHistogram> histograms;
};

// The members of a `layers` and of a `histogram` line.
std::string layers_members(const LayerReport& report);
std::string histogram_members(const LayerReport& report);

}  // namespace lockstep::runtime
