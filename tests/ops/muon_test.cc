// The passes of Muon against plain loops in fp64, and Newton-Schulz against what PyTorch made of
// the same matrices (tests/reference/make_muon_reference.py) and against what the polynomial does
// to singular values.
#include "ops/muon.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/memory.h"
#include "core/random.h"
#include "tests/support/recorded.h"

namespace lockstep::ops {
namespace {

using core::DType;

std::vector<float> normal(std::int64_t n, const char* what, float scale = 1.0F) {
  std::vector<float> values(static_cast<std::size_t>(n));
  core::fill_normal(core::stream_key(3, what), 0.0F, scale, values.data(), values.size());
  return values;
}

TEST(MuonMomentum, AveragesAndLooksAhead) {
  core::MemoryTracker memory;
  OpContext context(2, memory);
  constexpr std::int64_t kElements = 5003;
  for (const bool nesterov : {false, true}) {
    for (const float clamp : {0.0F, 0.2F}) {
      const std::vector<float> g = normal(kElements, "gradient");
      std::vector<float> m = normal(kElements, "moment", 0.1F);
      const std::vector<float> before = m;
      std::vector<float> u(g.size());
      const core::Shape shape{kElements};
      muon_momentum(context, {0.9, nesterov}, nullptr, 0.5F, clamp, {g.data(), DType::kF32, shape},
                    {m.data(), DType::kF32, shape}, {u.data(), DType::kF32, shape});
      std::vector<float> only = before;
      muon_momentum(context, {0.9, nesterov}, nullptr, 0.5F, clamp, {g.data(), DType::kF32, shape},
                    {only.data(), DType::kF32, shape}, {});
      EXPECT_EQ(only, m);
      for (std::size_t i = 0; i < g.size(); ++i) {
        double x = 0.5 * g[i];
        if (clamp > 0.0F) x = std::min(0.2, std::max(-0.2, x));
        const double moment = 0.9 * before[i] + 0.1 * x;
        EXPECT_NEAR(m[i], moment, 1e-6);
        EXPECT_NEAR(u[i], nesterov ? 0.1 * x + 0.9 * moment : moment, 1e-6);
      }
    }
  }
}

class Iteration {
 public:
  Iteration(std::int64_t rows, std::int64_t cols, DType dtype, int threads = 2)
      : rows_(rows), cols_(cols), dtype_(dtype), context_(threads, memory_) {
    const std::int64_t n = rows * cols;
    const std::int64_t side = std::min(rows, cols);
    const auto take = [&](DType type, std::int64_t elements) {
      buffers_.emplace_back(memory_, "test",
                            static_cast<std::size_t>(elements) * core::size_of(type));
      return buffers_.back().view(type, core::Shape{elements});
    };
    room_ = {take(dtype, n), take(dtype, side * side), take(dtype, side * side),
             take(DType::kF32, std::max(n, side * side)), &squares_};
  }

  std::vector<float> run(std::vector<float> matrix, std::int64_t steps = 5) {
    newton_schulz(context_, {matrix.data(), DType::kF32, core::Shape{rows_, cols_}}, steps, dtype_,
                  room_);
    return matrix;
  }

 private:
  std::int64_t rows_, cols_;
  DType dtype_;
  core::MemoryTracker memory_;
  OpContext context_;
  std::vector<core::Buffer> buffers_;
  SumOfSquares squares_;
  NewtonSchulzRoom room_;
};

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double most = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i)
    most = std::max(most, std::abs(static_cast<double>(a[i]) - b[i]));
  return most;
}

TEST(NewtonSchulz, IsPyTorchsTallWideSquareAndOfOneRow) {
  std::ifstream in(testing::recorded_file("muon_matrices.json"));
  const auto records = nlohmann::json::parse(in);
  ASSERT_EQ(records.size(), 6U);
  for (const auto& record : records) {
    const auto rows = record["rows"].get<std::int64_t>();
    const auto cols = record["cols"].get<std::int64_t>();
    SCOPED_TRACE(std::to_string(rows) + " x " + std::to_string(cols));
    const auto matrix = record["matrix"].get<std::vector<float>>();
    const auto exact = record["exact"].get<std::vector<float>>();
    const auto stock = record["bf16"].get<std::vector<float>>();
    EXPECT_LT(largest_difference(Iteration(rows, cols, DType::kF32).run(matrix), exact), 1e-5);
    EXPECT_LT(largest_difference(Iteration(rows, cols, DType::kBF16).run(matrix), stock), 3e-2);
  }
}

// On a diagonal matrix the iteration is its polynomial on every entry.
TEST(NewtonSchulz, BringsSingularValuesNearOne) {
  const std::vector<double> values = {1.0, 0.5, 0.1, 0.01, 0.004};
  std::vector<float> matrix(5 * 7);
  double norm = 0.0;
  for (std::size_t i = 0; i < 5; ++i) {
    matrix[i * 7 + i] = static_cast<float>(values[i]);
    norm += values[i] * values[i];
  }
  const std::vector<float> found = Iteration(5, 7, DType::kF32).run(matrix);
  for (std::size_t i = 0; i < 5; ++i) {
    double s = values[i] / std::sqrt(norm);
    for (int k = 0; k < 5; ++k)
      s = 3.4445 * s - 4.7750 * std::pow(s, 3) + 2.0315 * std::pow(s, 5);
    EXPECT_NEAR(found[i * 7 + i], s, 1e-5);
    EXPECT_GT(s, 0.68);
    EXPECT_LT(s, 1.21);
  }
}

TEST(NewtonSchulz, ZerosStayAndPowersOfTwoChangeNothing) {
  EXPECT_EQ(Iteration(4, 3, DType::kF32).run(std::vector<float>(12)), std::vector<float>(12));
  const std::vector<float> matrix = normal(24 * 8, "matrix");
  std::vector<float> scaled = matrix;
  for (float& x : scaled)
    x *= 1024.0F;
  EXPECT_EQ(Iteration(24, 8, DType::kF32).run(scaled), Iteration(24, 8, DType::kF32).run(matrix));
}

TEST(NewtonSchulz, ThreadsChangeNoBit) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const std::vector<float> matrix = normal(300 * 200, "matrix");
    EXPECT_EQ(Iteration(300, 200, dtype, 1).run(matrix), Iteration(300, 200, dtype, 2).run(matrix));
  }
}

TEST(NewtonSchulz, CountsItsOperations) {
  EXPECT_EQ(newton_schulz_flops(4, 2, 1), 4.0 * 4 * 4 + 2.0 * 8);
  EXPECT_EQ(newton_schulz_flops(2, 4, 3), 3 * newton_schulz_flops(4, 2, 1));
}

}  // namespace
}  // namespace lockstep::ops
