#pragma once

#include <span>

namespace lockstep::runtime {

// Student's t distribution with `degrees` > 0 degrees of freedom: the probability of |T| >= |t|.
double student_two_sided(double t, double degrees);
// The t > 0 that |T| exceeds with this probability, in (0, 1).
double student_quantile(double probability, double degrees);

// Welch's test of two means whose variances may differ (Welch 1947).
struct WelchTest {
  double difference = 0.0;  // mean(second) - mean(first)
  double p_value = 1.0;     // two-sided, of no difference
  double low = 0.0;         // of the confidence interval of the difference
  double high = 0.0;
};

// Each sample has two values at least. With no variance in either, p is 1 for equal means, else 0.
WelchTest welch_test(std::span<const double> first, std::span<const double> second,
                     double confidence);

double mean(std::span<const double> sample);
double variance(std::span<const double> sample);  // unbiased; of two values at least

}  // namespace lockstep::runtime
