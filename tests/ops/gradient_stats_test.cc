#include "ops/gradient_stats.h"

#include <gtest/gtest.h>

#include <limits>

#include "ops/exact_sum.h"
#include "tests/support/host_tensor.h"

namespace lockstep::ops {
namespace {

using core::DType;
using test::HostTensor;

std::vector<double> block_sums(HostTensor& x, int threads) {
  core::MemoryTracker memory;
  OpContext context(threads, memory);
  const std::int64_t n = x.view().elements();
  std::vector<Range> ranges;
  for (std::int64_t begin = 0; begin < n; begin += kNormBlock)
    ranges.push_back({begin, std::min(kNormBlock, n - begin)});
  std::vector<SumOfSquares> sums(ranges.size());
  sums_of_squares(context, x.vector_view(), ranges, sums.data());
  std::vector<double> blocks;
  for (const SumOfSquares& of_block : sums)
    blocks.push_back(of_block.sum.value());
  return blocks;
}

TEST(GradientStats, CountsInfAndNaNInEveryDtypeAndLayout) {
  for (const DType dtype : test::floating_dtypes())
    for (const std::int64_t gap : {0, 3})
      for (const int threads : {1, 2, 3}) {
        HostTensor x(dtype, 70, 771, gap);
        x.randomize(1);
        core::MemoryTracker memory;
        OpContext context(threads, memory);
        EXPECT_EQ(count_nonfinite(context, x.view()).total(), 0);
        std::vector<double> values = x.values();
        for (std::size_t i = 0; i < values.size(); i += 1000)
          values[i] = std::numeric_limits<double>::infinity() * (i % 2000 == 0 ? 1.0 : -1.0);
        for (std::size_t i = 5; i < values.size(); i += 777)
          values[i] = i % 2 == 0 ? std::nan("") : -std::nan("");
        x.set(values);
        std::int64_t inf = 0;
        std::int64_t nan = 0;
        for (const double v : values) {
          inf += std::isinf(v) ? 1 : 0;
          nan += std::isnan(v) ? 1 : 0;
        }
        const NonFinite found = count_nonfinite(context, x.view());
        EXPECT_EQ(found.inf, inf) << core::name_of(dtype);
        EXPECT_EQ(found.nan, nan) << core::name_of(dtype);
        EXPECT_EQ(found.total(), inf + nan);
      }
}

TEST(GradientStats, CountsWhenEveryElementIsBad) {
  for (const DType dtype : test::floating_dtypes()) {
    HostTensor x(dtype, 1, 70000);  // more than 16 bits can count
    x.set(std::vector<double>(70000, std::nan("")));
    core::MemoryTracker memory;
    OpContext context(2, memory);
    EXPECT_EQ(count_nonfinite(context, x.view()).nan, 70000);
  }
}

TEST(GradientStats, TheGreatestFiniteValueIsFinite) {
  HostTensor x(DType::kF16, 1, 3);
  x.set({65504.0, -65504.0, 6e-8});
  core::MemoryTracker memory;
  OpContext context(1, memory);
  EXPECT_EQ(count_nonfinite(context, x.view()).total(), 0);
}

TEST(GradientStats, BlocksHoldTheirSumsOfSquares) {
  for (const DType dtype : test::floating_dtypes())
    for (const std::int64_t n : {1, 63, 64, 65, 771, 40001}) {
      HostTensor x(dtype, 1, n);
      x.randomize(2);
      const std::vector<double> values = x.values();
      std::vector<double> expected(static_cast<std::size_t>((n + 63) / 64), 0.0);
      for (std::size_t i = 0; i < values.size(); ++i)
        expected[i / 64] += values[i] * values[i];
      test::expect_close(block_sums(x, 2), expected, 1e-13, "blocks");
    }
}

// A block gives the same bits alone, amid others, zero-padded, and on any number of threads.
TEST(GradientStats, BitsOfABlockDependOnItsElementsAlone) {
  for (const DType dtype : test::floating_dtypes()) {
    HostTensor x(dtype, 1, 40001);
    x.randomize(3);
    const std::vector<double> whole = block_sums(x, 1);
    EXPECT_EQ(block_sums(x, 2), whole);
    EXPECT_EQ(block_sums(x, 3), whole);
    const std::vector<double> values = x.values();
    for (std::size_t block = 0; block < whole.size(); block += 5) {
      std::vector<double> padded(64, 0.0);
      for (std::size_t i = 0; i < 64 && block * 64 + i < values.size(); ++i)
        padded[i] = values[block * 64 + i];
      HostTensor alone(dtype, 1, 64);
      alone.set(padded);
      EXPECT_EQ(block_sums(alone, 1)[0], whole[block]);
    }
  }
}

TEST(GradientStats, NormDoesNotDependOnSharding) {
  HostTensor x(DType::kF32, 1, 64 * 120);
  x.randomize(4);
  const std::vector<double> blocks = block_sums(x, 1);
  ExactSum whole;
  whole.add_all(blocks);
  for (const std::size_t shards : {2, 3, 4, 5, 8}) {
    ExactSum merged;
    for (std::size_t s = shards; s-- > 0;) {
      ExactSum part;
      part.add_all(
          std::span(blocks).subspan(s * 120 / shards, (s + 1) * 120 / shards - s * 120 / shards));
      merged.merge(part);
    }
    EXPECT_EQ(merged.value(), whole.value());
  }
}

TEST(GradientStats, SumsCountWhatIsNotFinite) {
  for (const DType dtype : test::floating_dtypes()) {
    HostTensor x(dtype, 1, 40001);
    x.randomize(5);
    std::vector<double> values = x.values();
    for (const std::size_t i : {70U, 71U, 30000U, 40000U})
      values[i] = std::numeric_limits<double>::infinity();
    values[200] = -std::nan("");
    x.set(values);
    core::MemoryTracker memory;
    OpContext context(2, memory);
    const std::vector<Range> ranges = {{0, 70}, {0, 40001}, {64, 64}, {128, 128}, {39990, 11}};
    std::vector<SumOfSquares> sums(ranges.size());
    sums[0].nonfinite = {7, 7};  // of an earlier step
    sums_of_squares(context, x.vector_view(), ranges, sums.data());
    const std::vector<std::pair<int, int>> expected = {{0, 0}, {4, 1}, {2, 0}, {0, 1}, {1, 0}};
    for (std::size_t i = 0; i < ranges.size(); ++i) {
      EXPECT_EQ(sums[i].nonfinite.inf, expected[i].first) << core::name_of(dtype) << " " << i;
      EXPECT_EQ(sums[i].nonfinite.nan, expected[i].second) << core::name_of(dtype) << " " << i;
      EXPECT_EQ(std::isfinite(sums[i].sum.value()), i == 0) << core::name_of(dtype) << " " << i;
    }
  }
}

// Squares of fp64 may overflow.
TEST(GradientStats, ASumBeyondFp64CountsNothing) {
  HostTensor x(DType::kF64, 1, 3);
  x.set({1e200, 1.0, -1e200});
  core::MemoryTracker memory;
  OpContext context(1, memory);
  SumOfSquares sum;
  const Range all{0, 3};
  sums_of_squares(context, x.vector_view(), {&all, 1}, &sum);
  EXPECT_FALSE(std::isfinite(sum.sum.value()));
  EXPECT_EQ(sum.nonfinite.total(), 0);
}

}  // namespace
}  // namespace lockstep::ops
