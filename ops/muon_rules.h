#pragma once

#include <cmath>

#include "ops/muon.h"

// The arithmetic of the elementwise passes of Muon, for every device.
namespace lockstep::ops {

// An average, as in torch.optim.Muon, and not the sum of Jordan's first code: the same update,
// other values of m.
struct MomentumAverage {
  float momentum;
  float one_minus_momentum;
  bool nesterov;

  explicit MomentumAverage(const MuonMomentum& rule)
      : momentum(static_cast<float>(rule.momentum)),
        one_minus_momentum(static_cast<float>(1.0 - rule.momentum)),
        nesterov(rule.nesterov) {}

  // Takes g into m; returns the direction.
  constexpr float operator()(float g, float& m) const {
    m = m + one_minus_momentum * (g - m);
    return nesterov ? g + momentum * (m - g) : m;
  }
};

// max(norm, eps); NaN where the norm is.
constexpr float norm_divisor(const SumOfSquares& squares, float eps) {
  const auto norm = static_cast<float>(std::sqrt(squares.sum.value()));
  return norm < eps ? eps : norm;
}

}  // namespace lockstep::ops
