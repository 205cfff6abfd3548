#include "runtime/report/welch.h"

#include <cmath>
#include <numeric>

namespace lockstep::runtime {
namespace {

// The continued fraction of the incomplete beta function (DLMF 8.17.22), by Lentz's method.
double beta_fraction(double a, double b, double x) {
  constexpr double kTiny = 1e-300;
  const auto safe = [](double value) { return std::fabs(value) < kTiny ? kTiny : value; };
  double c = 1.0;
  double d = 1.0 / safe(1.0 - (a + b) * x / (a + 1.0));
  double fraction = d;
  for (int m = 1; m <= 10000; ++m) {
    const double even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
    const double odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
    double change = 1.0;
    for (const double term : {even, odd}) {
      d = 1.0 / safe(1.0 + term * d);
      c = safe(1.0 + term / c);
      change = c * d;
      fraction *= change;
    }
    if (std::fabs(change - 1.0) < 1e-15) break;
  }
  return fraction;
}

// I_x(a, b)
double regularised_beta(double a, double b, double x) {
  if (x <= 0.0 || x >= 1.0) return x <= 0.0 ? 0.0 : 1.0;
  const double front = std::exp(std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) +
                                a * std::log(x) + b * std::log1p(-x));
  if (x < (a + 1.0) / (a + b + 2.0)) return front * beta_fraction(a, b, x) / a;
  return 1.0 - front * beta_fraction(b, a, 1.0 - x) / b;
}

}  // namespace

double student_two_sided(double t, double degrees) {
  return regularised_beta(degrees / 2.0, 0.5, degrees / (degrees + t * t));
}

double student_quantile(double probability, double degrees) {
  double low = 0.0;
  double high = 1.0;
  while (student_two_sided(high, degrees) > probability)
    high *= 2.0;
  for (int i = 0; i < 200 && low < high; ++i) {
    const double middle = 0.5 * (low + high);
    (student_two_sided(middle, degrees) > probability ? low : high) = middle;
  }
  return high;
}

double mean(std::span<const double> sample) {
  return std::accumulate(sample.begin(), sample.end(), 0.0) / static_cast<double>(sample.size());
}

double variance(std::span<const double> sample) {
  const double centre = mean(sample);
  double sum = 0.0;
  for (const double value : sample)
    sum += (value - centre) * (value - centre);
  return sum / static_cast<double>(sample.size() - 1);
}

WelchTest welch_test(std::span<const double> first, std::span<const double> second,
                     double confidence) {
  const auto n = static_cast<double>(first.size());
  const auto m = static_cast<double>(second.size());
  const double a = variance(first) / n;
  const double b = variance(second) / m;
  WelchTest test;
  test.difference = mean(second) - mean(first);
  test.low = test.high = test.difference;
  if (a + b == 0.0) {
    test.p_value = test.difference == 0.0 ? 1.0 : 0.0;
    return test;
  }
  const double error = std::sqrt(a + b);
  const double degrees = (a + b) * (a + b) / (a * a / (n - 1.0) + b * b / (m - 1.0));
  test.p_value = student_two_sided(test.difference / error, degrees);
  const double reach = student_quantile(1.0 - confidence, degrees) * error;
  test.low -= reach;
  test.high += reach;
  return test;
}

}  // namespace lockstep::runtime
