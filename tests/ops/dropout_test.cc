#include "ops/dropout.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/error.h"
#include "core/memory.h"

namespace lockstep::ops {
namespace {

using core::TensorView;

constexpr std::int64_t kRows = 6;   // of a sequence
constexpr std::int64_t kCols = 35;  // so that rows begin inside a block of the generator

Dropout make_dropout(double probability, std::int64_t first_sequence = 0) {
  return {probability, core::stream_key(7, "dropout test", 2), first_sequence, kRows};
}

std::vector<float> factors(const Dropout& dropout, std::int64_t sequence, std::int64_t begin,
                           std::int64_t n) {
  std::vector<float> out(static_cast<std::size_t>(n));
  dropout_factors(dropout, sequence, begin, n, out.data());
  return out;
}

// The op on x of [sequences * kRows, kCols] ones.
template <typename T>
std::vector<T> drop_ones(const Dropout& dropout, std::int64_t sequences, int threads = 1,
                         bool in_place = false) {
  core::MemoryTracker memory;
  OpContext context(threads, memory);
  std::vector<T> x(static_cast<std::size_t>(sequences * kRows * kCols),
                   static_cast<T>(core::AccumulateT<T>(1)));
  std::vector<T> y(x.size());
  const TensorView x_view(x.data(), core::DTypeOf<T>::value, {sequences * kRows, kCols});
  const TensorView y_view(y.data(), core::DTypeOf<T>::value, {sequences * kRows, kCols});
  ops::dropout(context, x_view, dropout, in_place ? x_view : y_view);
  return in_place ? x : y;
}

TEST(Dropout, DropsAtItsRateAndScalesTheRest) {
  for (const double p : {0.1, 0.5, 0.9}) {
    const std::int64_t n = 200000;
    std::int64_t dropped = 0;
    for (const float factor : factors(make_dropout(p), 3, 0, n)) {
      if (factor == 0.0F) {
        ++dropped;
      } else {
        ASSERT_FLOAT_EQ(factor, static_cast<float>(1.0 / (1.0 - p)));
      }
    }
    const double deviation = std::sqrt(p * (1.0 - p) / static_cast<double>(n));
    EXPECT_NEAR(static_cast<double>(dropped) / static_cast<double>(n), p, 4.0 * deviation);
  }
}

TEST(Dropout, IsTheDocumentedFunctionOfKeySequenceAndElement) {
  const Dropout dropout = make_dropout(0.3);
  const std::int64_t sequence = (std::int64_t{1} << 33) + 5;
  for (const std::int64_t begin : {std::int64_t{0}, std::int64_t{7}, std::int64_t{1} << 35}) {
    const std::vector<float> found = factors(dropout, sequence, begin, 301);
    for (std::size_t i = 0; i < found.size(); ++i) {
      const auto element = static_cast<std::uint64_t>(begin) + i;
      const auto block =
          core::stream_block(dropout.key, element / 4, static_cast<std::uint64_t>(sequence));
      const bool kept = core::to_unit_float(block[element % 4]) >= 0.3F;
      ASSERT_EQ(found[i] != 0.0F, kept) << "element " << element;
    }
  }
}

TEST(Dropout, RunsOfAnyCutAgree) {
  const Dropout dropout = make_dropout(0.4);
  const std::vector<float> whole = factors(dropout, 1, 0, 1000);
  for (const std::int64_t begin : {0, 1, 2, 3, 63, 64, 65, 500}) {
    for (const std::int64_t n : {0, 1, 3, 4, 61, 64, 129, 400}) {
      const std::vector<float> run = factors(dropout, 1, begin, n);
      for (std::size_t i = 0; i < run.size(); ++i)
        ASSERT_EQ(run[i], whole[static_cast<std::size_t>(begin) + i]);
    }
  }
}

TEST(Dropout, SequencesAndKeysDiffer) {
  const Dropout dropout = make_dropout(0.5);
  Dropout other = dropout;
  other.key = core::stream_key(7, "dropout test", 3);
  EXPECT_NE(factors(dropout, 0, 0, 256), factors(dropout, 1, 0, 256));
  EXPECT_NE(factors(dropout, 0, 0, 256), factors(other, 0, 0, 256));
}

// Four sequences at once, or two and two, or one by one.
TEST(Dropout, DoesNotDependOnTheMicroBatch) {
  const std::vector<float> whole = drop_ones<float>(make_dropout(0.3, 8), 4);
  for (const std::int64_t sequences : {2, 1}) {
    std::vector<float> joined;
    for (std::int64_t first = 0; first < 4; first += sequences) {
      const std::vector<float> part = drop_ones<float>(make_dropout(0.3, 8 + first), sequences);
      joined.insert(joined.end(), part.begin(), part.end());
    }
    EXPECT_EQ(joined, whole);
  }
}

TEST(Dropout, MultipliesByTheFactors) {
  const Dropout dropout = make_dropout(0.3, 8);
  const std::vector<float> y = drop_ones<float>(dropout, 2);
  std::vector<float> expected = factors(dropout, 8, 0, kRows * kCols);
  const std::vector<float> second = factors(dropout, 9, 0, kRows * kCols);
  expected.insert(expected.end(), second.begin(), second.end());
  EXPECT_EQ(y, expected);
  EXPECT_EQ(drop_ones<float>(dropout, 2, 1, true), expected) << "in place";
  EXPECT_EQ(drop_ones<float>(dropout, 200, 3), drop_ones<float>(dropout, 200, 1)) << "threads";
}

template <typename T>
void expect_the_same_decisions(double tolerance) {
  const std::vector<float> expected = drop_ones<float>(make_dropout(0.3), 3);
  const std::vector<T> y = drop_ones<T>(make_dropout(0.3), 3);
  for (std::size_t i = 0; i < y.size(); ++i)
    ASSERT_NEAR(static_cast<double>(static_cast<core::AccumulateT<T>>(y[i])),
                static_cast<double>(expected[i]), tolerance);
}

TEST(Dropout, DecidesAlikeInEveryDtype) {
  expect_the_same_decisions<double>(0.0);
  expect_the_same_decisions<core::BFloat16>(5e-3);
  expect_the_same_decisions<core::Float16>(1e-3);
}

TEST(Dropout, CopiesWhenInactive) {
  for (const float value : drop_ones<float>(make_dropout(0.0), 2))
    ASSERT_EQ(value, 1.0F);
}

TEST(Dropout, RefusesWhatDoesNotFit) {
  core::MemoryTracker memory;
  OpContext context(1, memory);
  std::vector<float> x(static_cast<std::size_t>(kRows * kCols));
  const TensorView whole(x.data(), core::DType::kF32, {kRows, kCols});
  const TensorView part = whole.slice_rows(0, kRows - 1);
  EXPECT_THROW(ops::dropout(context, part, make_dropout(0.1), part), core::Error);
  EXPECT_THROW(ops::dropout(context, whole, make_dropout(0.1), part), core::Error);
  EXPECT_THROW(ops::dropout(context, whole, make_dropout(1.0), whole), core::Error);
}

}  // namespace
}  // namespace lockstep::ops
