#include "ops/matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "core/random.h"
#include "ops/cpu/matmul_tiles.h"

namespace lockstep::ops {
namespace {

using core::ConstTensorView;
using core::DType;
using core::TensorView;

constexpr auto kNo = Transpose::kNo;
constexpr auto kYes = Transpose::kYes;

// A matrix of any dtype with `padding` unused elements after every row.
class Matrix {
 public:
  Matrix(DType dtype, std::int64_t rows, std::int64_t cols, std::int64_t padding = 0)
      : dtype_(dtype),
        rows_(rows),
        cols_(cols),
        stride_(cols + padding),
        bytes_(static_cast<std::size_t>(rows * stride_) * core::size_of(dtype) + 1) {}

  void fill_random(std::uint64_t seed) {
    std::vector<float> values(static_cast<std::size_t>(rows_ * stride_));
    core::fill_uniform(core::stream_key(seed, "matmul_test"), -1.0F, 1.0F, values.data(),
                       values.size());
    core::convert(DType::kF32, values.data(), dtype_, bytes_.data(), values.size());
  }

  TensorView view() { return {bytes_.data(), dtype_, {rows_, cols_}, stride_}; }

  double at(std::int64_t r, std::int64_t c) const {
    double value = 0.0;
    const auto offset = static_cast<std::size_t>(r * stride_ + c) * core::size_of(dtype_);
    core::convert(dtype_, bytes_.data() + offset, DType::kF64, &value, 1);
    return value;
  }
  void set(std::int64_t r, std::int64_t c, double value) {
    const auto offset = static_cast<std::size_t>(r * stride_ + c) * core::size_of(dtype_);
    core::convert(DType::kF64, &value, dtype_, bytes_.data() + offset, 1);
  }

  const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  DType dtype_;
  std::int64_t rows_, cols_, stride_;
  std::vector<std::byte> bytes_;
};

struct Case {
  std::int64_t m, n, k;
  Transpose transpose_a = kNo;
  Transpose transpose_b = kNo;
  bool bias = false;
  std::int64_t padding = 0;
};

struct Types {
  DType input;
  DType output;
};

constexpr Types kTypes[] = {{DType::kF32, DType::kF32},  {DType::kBF16, DType::kBF16},
                            {DType::kBF16, DType::kF32}, {DType::kF16, DType::kF16},
                            {DType::kF16, DType::kF32},  {DType::kF64, DType::kF64}};

Matrix left_of(const Case& c, DType dtype) {
  Matrix a = c.transpose_a == kYes ? Matrix(dtype, c.k, c.m, c.padding)
                                   : Matrix(dtype, c.m, c.k, c.padding);
  a.fill_random(1);
  return a;
}

Matrix right_of(const Case& c, DType dtype) {
  Matrix b = c.transpose_b == kYes ? Matrix(dtype, c.n, c.k, c.padding)
                                   : Matrix(dtype, c.k, c.n, c.padding);
  b.fill_random(2);
  return b;
}

Matrix bias_of(const Case& c, DType dtype) {
  Matrix bias(dtype, 1, c.n);
  bias.fill_random(3);
  return bias;
}

Matrix multiply(const Case& c, Types types, int threads) {
  core::MemoryTracker memory;
  OpContext context(threads, memory);
  Matrix a = left_of(c, types.input);
  Matrix b = right_of(c, types.input);
  Matrix bias = bias_of(c, types.input);
  Matrix out(types.output, c.m, c.n, c.padding);
  matmul(context, a.view(), c.transpose_a, b.view(), c.transpose_b, out.view(),
         c.bias ? bias.view().reshaped({c.n}) : TensorView{});
  return out;
}

double epsilon_of(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return 0x1p-53;
    case DType::kF32:
      return 0x1p-24;
    case DType::kF16:
      return 0x1p-11;
    default:
      return 0x1p-8;
  }
}

// Every element against a plain sum in double: the rounding of the sum (in fp32 of k terms of order
// one) and one rounding to the output.
void expect_product(const Case& c, Types types, const Matrix& out) {
  const Matrix a = left_of(c, types.input);
  const Matrix b = right_of(c, types.input);
  const Matrix bias = bias_of(c, types.input);
  const double sum_epsilon = epsilon_of(core::accumulate_dtype(types.input));
  for (std::int64_t i = 0; i < c.m; ++i) {
    for (std::int64_t j = 0; j < c.n; ++j) {
      double sum = c.bias ? bias.at(0, j) : 0.0;
      double magnitude = std::abs(sum);
      for (std::int64_t l = 0; l < c.k; ++l) {
        const double term = (c.transpose_a == kYes ? a.at(l, i) : a.at(i, l)) *
                            (c.transpose_b == kYes ? b.at(j, l) : b.at(l, j));
        sum += term;
        magnitude += std::abs(term);
      }
      const double tolerance =
          4.0 * std::sqrt(static_cast<double>(c.k + 1)) * sum_epsilon * magnitude +
          1.01 * epsilon_of(types.output) * std::abs(sum);
      ASSERT_NEAR(out.at(i, j), sum, tolerance)
          << c.m << "x" << c.n << "x" << c.k << " " << core::name_of(types.input) << " at " << i
          << "," << j;
    }
  }
}

TEST(Matmul, EqualsPlainSums) {
  const Case cases[] = {
      {1, 1, 1},
      {3, 5, 7, kNo, kYes, true},
      {17, 33, 65, kYes, kNo, true, 3},
      {64, 64, 64, kYes, kYes},
      {5, 300, 129, kNo, kNo, true, 5},
      {130, 70, 40, kNo, kYes, false, 1},
      {1, 97, 31, kNo, kYes, true},
      {97, 1, 31, kYes, kNo},
      {2, 3, 2200, kNo, kYes, true},  // several slices of k
  };
  for (const Types types : kTypes) {
    for (const Case& c : cases)
      expect_product(c, types, multiply(c, types, 1));
  }
}

TEST(Matmul, EqualsPlainSumsAcrossTiles) {
  const Case c{530, 1100, 8, kNo, kYes, true, 2};
  for (const Types types : kTypes)
    expect_product(c, types, multiply(c, types, 2));
}

TEST(Matmul, BitsDoNotDependOnThreads) {
  const Case cases[] = {
      {512, 768, 256, kNo, kYes, true}, {512, 256, 1024, kNo, kNo},
      {768, 256, 512, kYes, kNo},       {256, 1024, 512, kYes, kNo},
      {7, 50257, 48, kNo, kYes},                                   // a head
      {50257, 33, 16, kYes, kNo},       {3, 40, 20011, kNo, kNo},  // a long sum
      {1, 4099, 513, kNo, kYes, true},  {333, 517, 129, kNo, kYes, true, 3},
  };
  for (const Types types : kTypes) {
    for (const Case& c : cases) {
      const Matrix one = multiply(c, types, 1);
      for (const int threads : {2, 3}) {
        EXPECT_EQ(one.bytes(), multiply(c, types, threads).bytes())
            << c.m << "x" << c.n << "x" << c.k << " " << core::name_of(types.input) << " to "
            << core::name_of(types.output) << " on " << threads << " threads";
      }
    }
  }
}

TEST(Matmul, RepeatedCallsGiveTheSameBitsAndLeavePaddingAlone) {
  core::MemoryTracker memory;
  OpContext context(2, memory);
  const Case c{300, 600, 200, kNo, kYes, false, 4};
  Matrix a = left_of(c, DType::kF32);
  Matrix b = right_of(c, DType::kF32);
  Matrix first(DType::kF32, c.m, c.n, c.padding);
  Matrix second(DType::kF32, c.m, c.n, c.padding);
  second.fill_random(9);  // whatever stood in out is overwritten
  Matrix before = second;
  matmul(context, a.view(), kNo, b.view(), kYes, first.view());
  const std::size_t workspace = memory.peak();
  matmul(context, a.view(), kNo, b.view(), kYes, second.view());
  EXPECT_EQ(memory.peak(), workspace);
  for (std::int64_t r = 0; r < c.m; ++r) {
    for (std::int64_t j = 0; j < c.n; ++j)
      ASSERT_EQ(first.at(r, j), second.at(r, j));
    for (std::int64_t j = c.n; j < c.n + c.padding; ++j)
      ASSERT_EQ(second.at(r, j), before.at(r, j));
  }
}

TEST(Matmul, NonFiniteValuesReachTheirRowAndColumnOnly) {
  for (const Types types : kTypes) {
    core::MemoryTracker memory;
    OpContext context(1, memory);
    Matrix a(types.input, 20, 30);
    Matrix b(types.input, 30, 40);
    a.fill_random(1);
    b.fill_random(2);
    a.set(3, 5, std::numeric_limits<double>::quiet_NaN());
    b.set(7, 11, std::numeric_limits<double>::infinity());
    Matrix out(types.output, 20, 40);
    matmul(context, a.view(), kNo, b.view(), kNo, out.view());
    for (std::int64_t i = 0; i < 20; ++i) {
      for (std::int64_t j = 0; j < 40; ++j) {
        if (i == 3) {
          ASSERT_TRUE(std::isnan(out.at(i, j)));
        } else if (j == 11) {
          ASSERT_TRUE(std::isinf(out.at(i, j)));
        } else {
          ASSERT_TRUE(std::isfinite(out.at(i, j)));
        }
      }
    }
  }
}

TEST(Matmul, HalfOverflowBecomesInfinity) {
  core::MemoryTracker memory;
  OpContext context(1, memory);
  Matrix a(DType::kF16, 1, 2);
  Matrix b(DType::kF16, 2, 1);
  for (const std::int64_t i : {0, 1}) {
    a.set(0, i, 200.0);
    b.set(i, 0, 200.0);
  }
  Matrix half(DType::kF16, 1, 1);
  Matrix wide(DType::kF32, 1, 1);
  matmul(context, a.view(), kNo, b.view(), kNo, half.view());
  matmul(context, a.view(), kNo, b.view(), kNo, wide.view());
  EXPECT_TRUE(std::isinf(half.at(0, 0)));
  EXPECT_EQ(wide.at(0, 0), 80000.0);
}

TEST(Matmul, DenormalsAreKeptInSinglePrecision) {
  core::MemoryTracker memory;
  OpContext context(1, memory);
  Matrix a(DType::kF32, 1, 1);
  Matrix b(DType::kF32, 1, 1);
  a.set(0, 0, 0x1p-100);
  b.set(0, 0, 0x1p-40);
  Matrix out(DType::kF32, 1, 1);
  matmul(context, a.view(), kNo, b.view(), kNo, out.view());
  EXPECT_EQ(out.at(0, 0), 0x1p-140);
}

TEST(Matmul, EmptySumGivesTheBias) {
  core::MemoryTracker memory;
  OpContext context(1, memory);
  Matrix bias(DType::kBF16, 1, 3);
  bias.fill_random(3);
  Matrix out(DType::kF32, 2, 3);
  out.fill_random(4);
  const ConstTensorView a(&memory, DType::kBF16, {2, 0});
  const ConstTensorView b(&memory, DType::kBF16, {0, 3});
  matmul(context, a, kNo, b, kNo, out.view(), bias.view().reshaped({3}));
  EXPECT_EQ(out.at(1, 2), bias.at(0, 2));
  matmul(context, a, kNo, b, kNo, out.view());
  EXPECT_EQ(out.at(1, 2), 0.0);
}

TEST(Matmul, RefusesWhatDoesNotFit) {
  core::MemoryTracker memory;
  OpContext context(1, memory);
  Matrix a(DType::kF32, 4, 5);
  Matrix b(DType::kF32, 5, 6);
  Matrix out(DType::kF32, 4, 6);
  Matrix bf16(DType::kBF16, 5, 6);
  Matrix bf16_out(DType::kBF16, 4, 6);
  EXPECT_THROW(matmul(context, a.view(), kNo, b.view(), kYes, out.view()), core::Error);
  EXPECT_THROW(matmul(context, a.view(), kNo, bf16.view(), kNo, out.view()), core::Error);
  EXPECT_THROW(matmul(context, a.view(), kNo, b.view(), kNo, bf16_out.view()), core::Error);
  const ConstTensorView on_gpu(a.view().raw(), DType::kF32, {4, 5},
                               core::Device{core::DeviceType::kCuda, 0});
  EXPECT_THROW(matmul(context, on_gpu, kNo, b.view(), kNo, out.view()), core::Error);
}

TEST(MatmulTiles, CoverTheResultOnce) {
  for (const std::int64_t m : {1, 31, 512, 2048, 50257}) {
    for (const std::int64_t n : {1, 65, 768, 50257}) {
      for (const bool transpose_a : {false, true}) {
        const auto tiles = cpu::cut_matmul(m, n, 256, transpose_a, !transpose_a, 4);
        EXPECT_GE(tiles.tile_rows * tiles.row_tiles, m);
        EXPECT_LT(tiles.tile_rows * (tiles.row_tiles - 1), m);
        EXPECT_GE(tiles.tile_cols * tiles.col_tiles, n);
        EXPECT_LT(tiles.tile_cols * (tiles.col_tiles - 1), n);
        if (m * n >= 1 << 16) {
          EXPECT_GE(tiles.count(), 2);
        }
      }
    }
  }
}

}  // namespace
}  // namespace lockstep::ops
