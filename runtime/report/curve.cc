#include "runtime/report/curve.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <limits>

namespace lockstep::runtime {

void Curve::add(double at, double value) {
  x.push_back(at);
  y.push_back(std::isfinite(value) ? value : std::numeric_limits<double>::quiet_NaN());
}

void Curve::cut(double from) {
  const auto kept = std::lower_bound(x.begin(), x.end(), from) - x.begin();
  x.resize(static_cast<std::size_t>(kept));
  y.resize(x.size());
}

double Curve::value(double at) const {
  if (x.empty()) return std::numeric_limits<double>::quiet_NaN();
  const auto above = std::lower_bound(x.begin(), x.end(), at);
  if (above == x.end()) return y.back();
  const auto k = static_cast<std::size_t>(above - x.begin());
  if (k == 0 || x[k] == at) return y[k];
  return y[k - 1] + (y[k] - y[k - 1]) * (at - x[k - 1]) / (x[k] - x[k - 1]);
}

Curve thin_out(const Curve& curve, double from, double to, std::size_t points) {
  const auto index = [&](auto bound) { return static_cast<std::size_t>(bound - curve.x.begin()); };
  const std::size_t begin = index(std::lower_bound(curve.x.begin(), curve.x.end(), from));
  const std::size_t end = index(std::upper_bound(curve.x.begin(), curve.x.end(), to));
  Curve thin;
  const std::size_t count = end > begin ? end - begin : 0;
  const std::size_t pieces = count <= points ? count : std::max<std::size_t>(points / 2, 1);
  for (std::size_t piece = 0; piece < pieces; ++piece) {
    const std::size_t first = begin + count * piece / pieces;
    const std::size_t last = begin + count * (piece + 1) / pieces;  // exclusive
    std::size_t low = last, high = last, absent = last;
    for (std::size_t k = first; k < last; ++k) {
      if (std::isnan(curve.y[k])) {
        absent = k;
        continue;
      }
      if (low == last || curve.y[k] < curve.y[low]) low = k;
      if (high == last || curve.y[k] > curve.y[high]) high = k;
    }
    std::array kept = {low, high, absent, piece == 0 ? first : last,
                       piece + 1 == pieces ? last - 1 : last};
    std::sort(kept.begin(), kept.end());
    const auto kept_end = std::unique(kept.begin(), kept.end());
    for (auto k = kept.begin(); k != kept_end && *k != last; ++k)
      thin.add(curve.x[*k], curve.y[*k]);
  }
  return thin;
}

}  // namespace lockstep::runtime
