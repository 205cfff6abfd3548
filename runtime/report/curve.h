#pragma once

#include <cstddef>
#include <vector>

namespace lockstep::runtime {

// Points in the order of x, which rises strictly; y is NaN where there is no finite value.
struct Curve {
  std::vector<double> x;
  std::vector<double> y;

  bool empty() const { return x.empty(); }
  void add(double at, double value);
  // Removes the points with x >= `from`.
  void cut(double from);
  // y at `at`, linear between the points, that of the first or last point outside of them. NaN for an
  // empty curve.
  double value(double at) const;
};

// The points with x in [from, to], at most about `points` of them: of each run of neighbours the
// smallest and the largest y, so that no spike is lost, one point without a value if there is any,
// and the first and last point of the range.
Curve thin_out(const Curve& curve, double from, double to, std::size_t points);

}  // namespace lockstep::runtime
