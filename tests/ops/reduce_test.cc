#include "ops/reduce.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "core/random.h"

namespace lockstep::ops {
namespace {

using core::DType;

std::vector<float> random_values(std::int64_t n) {
  std::vector<float> values(static_cast<std::size_t>(n));
  core::fill_uniform(core::stream_key(1, "reduce_test"), -1.0F, 1.0F, values.data(), values.size());
  return values;
}

// column_sum of the given fp32 values, rounded to `dtype` first, with `padding` after each row.
std::vector<double> column_sum_of(const std::vector<float>& values, DType dtype, std::int64_t rows,
                                  std::int64_t cols, std::int64_t padding, int threads) {
  core::MemoryTracker memory;
  OpContext context(threads, memory);
  std::vector<std::byte> x(values.size() * core::size_of(dtype));
  core::convert(DType::kF32, values.data(), dtype, x.data(), values.size());
  const auto n = static_cast<std::size_t>(cols);
  std::vector<std::byte> out(n * core::size_of(dtype), std::byte{0x7f});
  column_sum(context, {x.data(), dtype, {rows, cols}, cols + padding}, {out.data(), dtype, {cols}});
  std::vector<double> result(n);
  core::convert(dtype, out.data(), DType::kF64, result.data(), n);
  return result;
}

class ColumnSum : public testing::TestWithParam<DType> {};

TEST_P(ColumnSum, EqualsPlainSums) {
  const DType dtype = GetParam();
  const double epsilon = dtype == DType::kF64   ? 1e-15
                         : dtype == DType::kF32 ? 1e-6
                         : dtype == DType::kF16 ? 0x1p-11
                                                : 0x1p-8;
  for (const std::int64_t rows : {1, 2, 77, 1000}) {
    for (const std::int64_t cols : {1, 7, 768, 2309}) {
      for (const std::int64_t padding : {0, 5}) {
        const auto values = random_values(rows * (cols + padding));
        std::vector<double> rounded(values.size());
        std::vector<std::byte> typed(values.size() * core::size_of(dtype));
        core::convert(DType::kF32, values.data(), dtype, typed.data(), values.size());
        core::convert(dtype, typed.data(), DType::kF64, rounded.data(), values.size());
        const auto sums = column_sum_of(values, dtype, rows, cols, padding, 1);
        for (std::int64_t c = 0; c < cols; ++c) {
          double expected = 0.0;
          for (std::int64_t r = 0; r < rows; ++r)
            expected += rounded[static_cast<std::size_t>(r * (cols + padding) + c)];
          ASSERT_NEAR(sums[static_cast<std::size_t>(c)], expected,
                      1.01 * epsilon * std::abs(expected) + 1e-4 * epsilon +
                          (dtype == DType::kF64 ? 1e-12 : 2e-5));
        }
      }
    }
  }
}

TEST_P(ColumnSum, BitsDoNotDependOnThreads) {
  const std::int64_t rows = 513;
  const std::int64_t cols = 1025;
  const auto values = random_values(rows * cols);
  const auto one = column_sum_of(values, GetParam(), rows, cols, 0, 1);
  EXPECT_EQ(one, column_sum_of(values, GetParam(), rows, cols, 0, 2));
  EXPECT_EQ(one, column_sum_of(values, GetParam(), rows, cols, 0, 3));
}

TEST_P(ColumnSum, NonFiniteStaysInItsColumn) {
  auto values = random_values(40 * 3);
  values[3 * 17 + 1] = std::numeric_limits<float>::quiet_NaN();
  values[3 * 20 + 2] = -std::numeric_limits<float>::infinity();
  const auto sums = column_sum_of(values, GetParam(), 40, 3, 0, 2);
  EXPECT_TRUE(std::isfinite(sums[0]));
  EXPECT_TRUE(std::isnan(sums[1]));
  EXPECT_EQ(sums[2], -std::numeric_limits<double>::infinity());
}

TEST_P(ColumnSum, NoRowsGiveZeros) {
  EXPECT_EQ(column_sum_of({}, GetParam(), 0, 4, 0, 1), std::vector<double>(4, 0.0));
}

INSTANTIATE_TEST_SUITE_P(DTypes, ColumnSum,
                         testing::Values(DType::kF32, DType::kBF16, DType::kF16, DType::kF64),
                         [](const auto& dtype) { return std::string(core::name_of(dtype.param)); });

}  // namespace
}  // namespace lockstep::ops
