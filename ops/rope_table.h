#pragma once

#include <cmath>
#include <cstdint>

#include "core/tensor.h"
#include "ops/rope_scaling.h"

namespace lockstep::ops {

// The values of fill_rope_table() in host memory. A: float or double, the dtype of both tables.
template <typename A>
void fill_rope_values(double theta, const RopeScaling& scaling, core::TensorView cosines,
                      core::TensorView sines) {
  const auto half = static_cast<double>(cosines.cols());
  for (std::int64_t i = 0; i < cosines.cols(); ++i) {
    const double frequency =
        scaled_frequency(scaling, std::pow(theta, -static_cast<double>(i) / half));
    for (std::int64_t t = 0; t < cosines.rows(); ++t) {
      const double angle = static_cast<double>(t) * frequency;
      cosines.row<A>(t)[i] = static_cast<A>(std::cos(angle));
      sines.row<A>(t)[i] = static_cast<A>(std::sin(angle));
    }
  }
}

}  // namespace lockstep::ops
