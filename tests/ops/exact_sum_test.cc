#include "ops/exact_sum.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace lockstep::ops {
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

// What kernels call is computed by the compiler just as well.
constexpr ExactSum kMerged = [] {
  ExactSum sum, other;
  sum.add(1.0);
  sum.add(0x1p-53);
  other.add(0x1p-1074);
  sum.merge(other);
  return sum;
}();
static_assert(kMerged.value() == 1.0 + 0x1p-52);

// A sum's rounding, and its sign and infinity, left to the floating-point unit.
double value_by_ldexp(const ExactSum& sum) {
  std::array<std::uint64_t, ExactSum::kWords> words = sum.words;
  const bool negative = words.back() >> 63 != 0;
  if (negative) {  // two's complement: all bits from behind the lowest 1 on
    std::size_t i = 0;
    while (words[i] == 0)
      ++i;
    words[i] = ~words[i] + 1;
    while (++i < words.size())
      words[i] = ~words[i];
  }
  std::size_t top = words.size();
  while (top > 0 && words[top - 1] == 0)
    --top;
  if (top == 0) return 0.0;
  const auto bit = [&](int i) {
    return i < 0 ? 0U : static_cast<unsigned>(words[i / 64U] >> (i % 64)) & 1U;
  };
  const int lowest = static_cast<int>(top) * 64 - std::countl_zero(words[top - 1]) - 64;
  std::uint64_t kept = 0;  // the topmost 64 bits
  for (int i = 63; i >= 0; --i)
    kept = kept << 1 | bit(lowest + i);
  for (int i = 0; i < lowest; ++i)
    kept |= bit(i);  // enough for a conversion that rounds to nearest even
  const double value = std::ldexp(static_cast<double>(kept), lowest - 1074);
  return negative ? -value : value;
}

ExactSum negated(ExactSum sum) {
  bool carry = true;
  for (std::uint64_t& word : sum.words) {
    word = ~word + (carry ? 1U : 0U);
    carry = carry && word == 0;
  }
  return sum;
}

void expect_rounded(const ExactSum& sum, const std::string& what) {
  for (const ExactSum& signed_sum : {sum, negated(sum)}) {
    EXPECT_EQ(std::bit_cast<std::uint64_t>(signed_sum.value()),
              std::bit_cast<std::uint64_t>(value_by_ldexp(signed_sum)))
        << what;
  }
}

// Around every power of two: subnormals, 2^53 units of the least one, where normal numbers round
// for the first time, the end of fp64, beyond it; each at and beside a tie.
TEST(ExactSum, RoundsEverywhereAsTheFloatingPointUnitDoes) {
  for (int top = 0; top < 64 * static_cast<int>(ExactSum::kWords) - 1; ++top) {
    const auto set = [](ExactSum& sum, int bit) {
      if (bit >= 0) sum.words[static_cast<std::size_t>(bit / 64)] |= std::uint64_t{1} << (bit % 64);
    };
    for (unsigned pattern = 0; pattern < 16; ++pattern) {
      ExactSum sum;
      set(sum, top);
      if ((pattern & 1) != 0) set(sum, top - 52);  // the last bit that is kept
      if ((pattern & 2) != 0) set(sum, top - 53);  // half of it
      if ((pattern & 4) != 0) set(sum, top - 54);
      if ((pattern & 8) != 0) set(sum, 0);
      expect_rounded(sum, "bit " + std::to_string(top) + ", pattern " + std::to_string(pattern));
    }
    ExactSum ones;  // carries into the next power of two
    for (int bit = top; bit > top - 54; --bit)
      set(ones, bit);
    expect_rounded(ones, "ones up to bit " + std::to_string(top));
  }
}

TEST(ExactSum, RoundsRandomSumsAsTheFloatingPointUnitDoes) {
  std::mt19937_64 random(8);
  for (int round = 0; round < 20000; ++round) {
    ExactSum sum;
    const auto words = static_cast<std::size_t>(random() % ExactSum::kWords);
    for (std::size_t i = 0; i < words; ++i)
      sum.words[i] = random() % 4 == 0 ? 0 : random() >> random() % 64;
    expect_rounded(sum, "round " + std::to_string(round));
  }
}

// One carry and one borrow through every word.
TEST(ExactSum, CarriesAndBorrowsAsFarAsTheyGo) {
  for (int exponent = -1074; exponent <= 1023; ++exponent) {
    const double value = std::ldexp(1.0, exponent);
    ExactSum below_zero;
    below_zero.add(-value);
    ExactSum merged = below_zero;
    ExactSum other;
    other.add(value);
    merged.merge(other);
    EXPECT_EQ(merged, ExactSum{}) << exponent;
    for (std::size_t i = static_cast<std::size_t>(exponent + 1074) / 64 + 1; i < ExactSum::kWords;
         ++i)
      EXPECT_EQ(below_zero.words[i], ~std::uint64_t{0}) << exponent;
    below_zero.add(value);
    EXPECT_EQ(below_zero, ExactSum{}) << exponent;
  }
}

}  // namespace
}  // namespace lockstep::ops
