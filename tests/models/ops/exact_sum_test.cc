#include "models/ops/exact_sum.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

namespace lockstep::models::ops {
namespace {

// Values of both signs with exponents spread over [-range, range].
std::vector<double> spread(std::size_t n, int range, bool signs, unsigned seed) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> significand(1.0, 2.0);
  std::uniform_int_distribution<int> exponent(-range, range);
  std::vector<double> values(n);
  for (double& v : values) {
    v = std::ldexp(significand(random), exponent(random));
    if (signs && random() % 2 == 0) v = -v;
  }
  return values;
}

ExactSum sum_of(const std::vector<double>& values) {
  ExactSum sum;
  sum.add_all(values);
  return sum;
}

TEST(ExactSum, OrderDoesNotMatter) {
  for (const int range : {3, 60, 1020}) {
    std::vector<double> values = spread(1000, range, true, 1);
    const ExactSum expected = sum_of(values);
    std::mt19937_64 random(2);
    for (int round = 0; round < 20; ++round) {
      std::shuffle(values.begin(), values.end(), random);
      EXPECT_EQ(sum_of(values), expected);
    }
    std::sort(values.begin(), values.end());
    EXPECT_EQ(sum_of(values), expected);
  }
}

TEST(ExactSum, PartitionDoesNotMatter) {
  const std::vector<double> values = spread(1000, 300, true, 3);
  const ExactSum expected = sum_of(values);
  for (const std::size_t parts : {2, 3, 7, 64}) {
    std::vector<ExactSum> sums(parts);
    for (std::size_t i = 0; i < values.size(); ++i)
      sums[i * parts / values.size()].add(values[i]);
    ExactSum forwards, backwards;
    for (std::size_t p = 0; p < parts; ++p) {
      forwards.merge(sums[p]);
      backwards.merge(sums[parts - 1 - p]);
    }
    EXPECT_EQ(forwards, expected);
    EXPECT_EQ(backwards, expected);
    EXPECT_EQ(forwards.value(), expected.value());
  }
}

TEST(ExactSum, SurvivesACopyOfItsBytes) {
  const ExactSum sum = sum_of(spread(100, 100, true, 4));
  ExactSum received;
  std::memcpy(static_cast<void*>(&received), &sum, sizeof(sum));
  EXPECT_EQ(received.value(), sum.value());
}

// 64 bits of significand hold sums of values of like size exactly.
TEST(ExactSum, AgreesWithLongDoubleWhereThatIsExact) {
  static_assert(LDBL_MANT_DIG >= 64);
  for (unsigned seed = 0; seed < 200; ++seed) {
    const std::vector<double> values = spread(16, 3, true, seed);
    long double expected = 0.0L;
    for (const double v : values)
      expected += static_cast<long double>(v);
    EXPECT_EQ(sum_of(values).value(), static_cast<double>(expected)) << seed;
  }
}

TEST(ExactSum, HugeRanges) {
  ExactSum sum;
  sum.add(1e308);
  sum.add(1.0);
  sum.add(-1e308);
  sum.add(0x1p-1074);
  EXPECT_EQ(sum.value(), 1.0);  // 1 + the least subnormal, rounded
  sum.add(-1.0);
  EXPECT_EQ(sum.value(), 0x1p-1074);
  sum.add(-0x1p-1073);
  EXPECT_EQ(sum.value(), -0x1p-1074);
  sum.add(0x1p-1074);
  EXPECT_EQ(sum, ExactSum{});
  EXPECT_FALSE(std::signbit(sum.value()));
}

TEST(ExactSum, EveryExponentComesBack) {
  for (int exponent = -1074; exponent <= 1023; ++exponent)
    for (const double significand : {1.0, 1.9999999999999998, -1.25}) {
      const double value = std::ldexp(significand, exponent);
      ExactSum sum;
      sum.add(value);
      EXPECT_EQ(sum.value(), value) << exponent;
    }
}

TEST(ExactSum, RoundsToNearestEven) {
  const auto of = [](std::vector<double> values) { return sum_of(values).value(); };
  EXPECT_EQ(of({1.0, 0x1p-53}), 1.0);                       // tie, down to even
  EXPECT_EQ(of({1.0 + 0x1p-52, 0x1p-53}), 1.0 + 0x1p-51);   // tie, up to even
  EXPECT_EQ(of({1.0, 0x1p-53, 0x1p-1074}), 1.0 + 0x1p-52);  // above the tie
  EXPECT_EQ(of({1.0, 0x1p-53, -0x1p-1074}), 1.0);           // below it
  EXPECT_EQ(of({2.0 - 0x1p-52, 0x1p-53}), 2.0);             // carries into the exponent
  EXPECT_EQ(of({-1.0, -0x1p-53, -0x1p-1074}), -1.0 - 0x1p-52);
}

TEST(ExactSum, BeyondFp64IsInfiniteUntilItComesBack) {
  ExactSum sum;
  sum.add(DBL_MAX);
  sum.add(DBL_MAX);
  EXPECT_EQ(sum.value(), std::numeric_limits<double>::infinity());
  sum.add(-DBL_MAX);
  EXPECT_EQ(sum.value(), DBL_MAX);
}

TEST(ExactSum, NonFiniteValuesStick) {
  const double infinity = std::numeric_limits<double>::infinity();
  ExactSum positive, negative, nan;
  positive.add(infinity);
  positive.add(-1e300);
  EXPECT_EQ(positive.value(), infinity);
  negative.add(-infinity);
  EXPECT_EQ(negative.value(), -infinity);
  nan.add(std::nan(""));
  nan.add(1.0);
  EXPECT_TRUE(std::isnan(nan.value()));
  positive.merge(negative);
  EXPECT_TRUE(std::isnan(positive.value()));
}

TEST(ExactSum, LongRunsEqualSingleAdditions) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const std::size_t n : {255, 256, 4096, 4097, 20000}) {
    std::vector<double> values = spread(n, 1022, true, 6);
    std::fill_n(values.begin() + 10, 200, DBL_MAX);
    std::fill_n(values.end() - 10, 10, -0x1p-1074);
    for (const bool with_infinity : {false, true}) {
      if (with_infinity) values[n / 2] = -infinity;
      ExactSum single;
      for (const double v : values)
        single.add(v);
      EXPECT_EQ(sum_of(values), single);
      EXPECT_EQ(single.flags, with_infinity ? ExactSum::kNegativeInfinity : 0);
    }
  }
}

TEST(ExactSum, ManyAdditions) {
  ExactSum sum;
  for (int i = 0; i < 1000000; ++i)
    sum.add(0.1);
  // 10^6 times the double nearest to 0.1: the product in long double is exact to 64 bits.
  EXPECT_EQ(sum.value(), static_cast<double>(1000000.0L * static_cast<long double>(0.1)));
}

}  // namespace
}  // namespace lockstep::models::ops
