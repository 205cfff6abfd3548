#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

// Checks of hand-written gradients against finite differences, for tests that run an op or a model
// in fp64.
namespace lockstep::test {

// |a - b| / (|a| + |b|) in the Euclidean norm: 0 when both are zero, NaN when either holds a NaN.
// Norm-wise, so that entries that are tiny by cancellation do not decide.
inline double relative_difference(std::span<const double> a, std::span<const double> b) {
  if (a.size() != b.size()) return std::nan("");
  double difference = 0.0;
  double norm_a = 0.0;
  double norm_b = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm_a += a[i] * a[i];
    norm_b += b[i] * b[i];
  }
  if (difference == 0.0) return 0.0;
  return std::sqrt(difference) / (std::sqrt(norm_a) + std::sqrt(norm_b));
}

// d f / d x by central differences with one Richardson step (error O(h^4)): f is evaluated four
// times per element with x[i] altered in place and restored. The steps h and 2h, with
// h = step * max(1, |x[i]|), balance the truncation against the rounding of f; choose f of order 1
// (a weighted sum of an op's outputs) and smooth near x.
inline std::vector<double> numeric_gradient(const std::function<double()>& f, std::span<double> x,
                                            double step = 2e-4) {
  std::vector<double> gradient(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double centre = x[i];
    const double h = step * std::max(1.0, std::abs(centre));
    const auto at = [&](double offset) {
      x[i] = centre + offset;
      return f();
    };
    const double narrow = (at(h) - at(-h)) / (2.0 * h);
    const double wide = (at(2.0 * h) - at(-2.0 * h)) / (4.0 * h);
    x[i] = centre;
    gradient[i] = (4.0 * narrow - wide) / 3.0;
  }
  return gradient;
}

// relative_difference of an analytic gradient and the numeric one of f at x.
//   EXPECT_LT(gradient_error(loss, x, dx), 1e-7);
inline double gradient_error(const std::function<double()>& f, std::span<double> x,
                             std::span<const double> analytic, double step = 2e-4) {
  return relative_difference(analytic, numeric_gradient(f, x, step));
}

// The sum of w[i] * y[i]: turns a tensor result into the scalar loss whose gradient with respect to
// y is w.
inline double weighted_sum(std::span<const double> w, std::span<const double> y) {
  double sum = 0.0;
  for (std::size_t i = 0; i < y.size(); ++i)
    sum += w[i] * y[i];
  return sum;
}

}  // namespace lockstep::test
