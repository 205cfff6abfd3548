#include "ops/cpu/vector_math.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

namespace lockstep::ops::cpu {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Distance of an fp32 result from the exact value in units of the last place at that value.
double error_in_ulp(float found, double exact) {
  if (std::isinf(found)) return std::abs(exact) > 0x1.fffffep127 ? 0.0 : 1e9;
  int exponent = 0;
  std::frexp(exact, &exponent);
  const double ulp = std::ldexp(1.0, std::max(exponent - 24, -149));
  return std::abs(static_cast<double>(found) - exact) / ulp;
}

// The worst error over a stride through all bit patterns of both signs (a prime stride, so that
// low bits vary).
template <typename Found, typename Exact>
double worst_error(Found found, Exact exact, float limit) {
  double worst = 0.0;
  for (std::uint64_t bits = 0; bits < std::bit_cast<std::uint32_t>(limit); bits += 613) {
    const float x = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    worst = std::max(worst, error_in_ulp(found(x), exact(static_cast<double>(x))));
    worst = std::max(worst, error_in_ulp(found(-x), exact(-static_cast<double>(x))));
  }
  return worst;
}

TEST(VectorMath, ExpIsWithinTwoUlp) {
  const double worst = worst_error([](float x) { return vector_exp(x); },
                                   [](double x) { return std::exp(x); }, 200.0F);
  RecordProperty("worst_ulp", std::to_string(worst));
  EXPECT_LT(worst, 2.0);
}

TEST(VectorMath, TanhIsWithinTwoUlp) {
  const double worst = worst_error([](float x) { return vector_tanh(x); },
                                   [](double x) { return std::tanh(x); }, 200.0F);
  RecordProperty("worst_ulp", std::to_string(worst));
  EXPECT_LT(worst, 2.0);
}

TEST(VectorMath, ErfIsWithinTwoUlp) {
  const double worst = worst_error([](float x) { return vector_erf(x); },
                                   [](double x) { return std::erf(x); }, 200.0F);
  RecordProperty("worst_ulp", std::to_string(worst));
  EXPECT_LT(worst, 2.0);
}

TEST(VectorMath, Extremes) {
  EXPECT_EQ(vector_exp(-kInf), 0.0F);
  EXPECT_EQ(vector_exp(kInf), kInf);
  EXPECT_EQ(vector_exp(0.0F), 1.0F);
  EXPECT_EQ(vector_exp(-1e30F), 0.0F);
  EXPECT_EQ(vector_exp(88.73F), kInf);
  EXPECT_TRUE(std::isfinite(vector_exp(88.72F)));
  EXPECT_GT(vector_exp(-103.0F), 0.0F);  // denormal, not flushed
  EXPECT_TRUE(std::isnan(vector_exp(kNan)));
  EXPECT_TRUE(std::isnan(vector_exp(-kNan)));

  EXPECT_EQ(vector_tanh(kInf), 1.0F);
  EXPECT_EQ(vector_tanh(-kInf), -1.0F);
  EXPECT_EQ(vector_tanh(1e-30F), 1e-30F);
  EXPECT_TRUE(std::isnan(vector_tanh(kNan)));

  EXPECT_EQ(vector_erf(kInf), 1.0F);
  EXPECT_EQ(vector_erf(-kInf), -1.0F);
  EXPECT_TRUE(std::isnan(vector_erf(kNan)));
  EXPECT_TRUE(std::signbit(vector_erf(-0.0F)));
  EXPECT_TRUE(std::signbit(vector_tanh(-0.0F)));
}

}  // namespace
}  // namespace lockstep::ops::cpu
