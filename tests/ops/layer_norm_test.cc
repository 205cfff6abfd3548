#include "ops/layer_norm.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/support/gradient_check.h"
#include "tests/support/host_tensor.h"

namespace lockstep::ops {
namespace {

using core::DType;
using test::HostTensor;

constexpr double kEps = 1e-5;

// y of the formula, in double, row by row.
std::vector<double> reference(const std::vector<double>& x, const std::vector<double>& gain,
                              const std::vector<double>& bias) {
  const std::size_t cols = gain.size();
  std::vector<double> y(x.size());
  for (std::size_t r = 0; r < x.size() / cols; ++r) {
    const double* row = x.data() + r * cols;
    double mean = 0.0;
    for (std::size_t c = 0; c < cols; ++c)
      mean += row[c] / static_cast<double>(cols);
    double variance = 0.0;
    for (std::size_t c = 0; c < cols; ++c)
      variance += (row[c] - mean) * (row[c] - mean) / static_cast<double>(cols);
    for (std::size_t c = 0; c < cols; ++c)
      y[r * cols + c] =
          (row[c] - mean) / std::sqrt(variance + kEps) * gain[c] + (bias.empty() ? 0.0 : bias[c]);
  }
  return y;
}

struct Problem {
  Problem(DType dtype, std::int64_t rows, std::int64_t cols, std::int64_t gap = 0)
      : x(dtype, rows, cols, gap),
        gain(dtype, 1, cols),
        bias(dtype, 1, cols),
        y(dtype, rows, cols, gap),
        mean(core::accumulate_dtype(dtype), 1, rows),
        rstd(core::accumulate_dtype(dtype), 1, rows),
        dy(dtype, rows, cols, gap),
        add(dtype, rows, cols, gap),
        dx(dtype, rows, cols, gap),
        dgain(dtype, 1, cols),
        dbias(dtype, 1, cols) {
    x.randomize(1, 0.5, 2.0);
    gain.randomize(2, 1.0, 0.3);
    bias.randomize(3);
    dy.randomize(4);
    add.randomize(5);
  }

  void forward(int threads = 2) {
    core::MemoryTracker memory;
    OpContext context(threads, memory);
    layer_norm_forward(context, x.view(), gain.vector_view(), bias.vector_view(), kEps, y.view(),
                       mean.vector_view(), rstd.vector_view());
  }
  void backward(int threads = 2) {
    core::MemoryTracker memory;
    OpContext context(threads, memory);
    layer_norm_backward(context, dy.view(), x.view(), gain.vector_view(), mean.vector_view(),
                        rstd.vector_view(), add.view(), dx.view(), dgain.vector_view(),
                        dbias.vector_view());
  }

  HostTensor x, gain, bias, y, mean, rstd, dy, add, dx, dgain, dbias;
};

TEST(LayerNorm, ForwardMatchesTheFormulaInEveryDtypeAndLayout) {
  for (const DType dtype : test::floating_dtypes())
    for (const std::int64_t cols : {1, 7, 20, 64, 771})
      for (const std::int64_t gap : {0, 3}) {
        Problem p(dtype, 9, cols, gap);
        p.forward();
        test::expect_close(p.y.values(), reference(p.x.values(), p.gain.values(), p.bias.values()),
                           test::tolerance_of(dtype), std::string(core::name_of(dtype)));
        EXPECT_TRUE(p.y.gaps_intact());
      }
}

TEST(LayerNorm, VarianceSurvivesALargeMean) {
  Problem p(DType::kF32, 3, 64);
  std::vector<double> x(3 * 64);
  for (std::size_t i = 0; i < x.size(); ++i)
    x[i] = 4096.0 + static_cast<double>(i % 2);  // exact in fp32; E[x^2] - E[x]^2 would give noise
  p.x.set(x);
  p.forward();
  test::expect_close(p.y.values(), reference(x, p.gain.values(), p.bias.values()), 1e-5, "y");
}

TEST(LayerNorm, BiasMayBeAbsentAndOutputMayReplaceInput) {
  for (const DType dtype : test::floating_dtypes()) {
    Problem p(dtype, 5, 20);
    const std::vector<double> expected = reference(p.x.values(), p.gain.values(), {});
    core::MemoryTracker memory;
    OpContext context(1, memory);
    layer_norm_forward(context, p.x.view(), p.gain.vector_view(), {}, kEps, p.x.view(),
                       p.mean.vector_view(), p.rstd.vector_view());
    test::expect_close(p.x.values(), expected, test::tolerance_of(dtype), "y in x");
  }
}

// The loss whose gradients backward gives: sum(dy * y) + sum(add * x).
TEST(LayerNorm, BackwardMatchesCentralDifferences) {
  for (const std::int64_t cols : {2, 7, 20, 64}) {
    Problem p(DType::kF64, 6, cols);
    p.forward();
    p.backward();
    std::vector<double> x = p.x.values(), gain = p.gain.values(), bias = p.bias.values();
    const std::vector<double> dy = p.dy.values(), add = p.add.values();
    const auto loss = [&] {
      return test::weighted_sum(dy, reference(x, gain, bias)) + test::weighted_sum(add, x);
    };
    EXPECT_LT(test::gradient_error(loss, x, p.dx.values()), 1e-7) << cols;
    EXPECT_LT(test::gradient_error(loss, gain, p.dgain.values()), 1e-7) << cols;
    EXPECT_LT(test::gradient_error(loss, bias, p.dbias.values()), 1e-7) << cols;
  }
}

TEST(LayerNorm, BackwardInOtherDtypesFollowsFp64) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16})
    for (const std::int64_t cols : {7, 64, 771}) {
      Problem p(dtype, 33, cols, 5);
      p.forward();
      p.backward();
      Problem exact(DType::kF64, 33, cols);
      exact.x.set(p.x.values());
      exact.gain.set(p.gain.values());
      exact.dy.set(p.dy.values());
      exact.add.set(p.add.values());
      exact.forward();
      exact.backward();
      const double tolerance = 2 * test::tolerance_of(dtype);
      test::expect_close(p.dx.values(), exact.dx.values(), tolerance, "dx");
      test::expect_close(p.dgain.values(), exact.dgain.values(), tolerance, "dgain");
      test::expect_close(p.dbias.values(), exact.dbias.values(), tolerance, "dbias");
      EXPECT_TRUE(p.dx.gaps_intact());
    }
}

TEST(LayerNorm, BackwardMayWriteOverDyOrAdd) {
  for (const DType dtype : test::floating_dtypes()) {
    Problem p(dtype, 5, 64);
    p.forward();
    p.backward();
    core::MemoryTracker memory;
    OpContext context(1, memory);
    HostTensor over_dy = p.dy, over_add = p.add;
    layer_norm_backward(context, over_dy.view(), p.x.view(), p.gain.vector_view(),
                        p.mean.vector_view(), p.rstd.vector_view(), p.add.view(), over_dy.view(),
                        p.dgain.vector_view(), p.dbias.vector_view());
    EXPECT_EQ(over_dy.values(), p.dx.values());
    layer_norm_backward(context, p.dy.view(), p.x.view(), p.gain.vector_view(),
                        p.mean.vector_view(), p.rstd.vector_view(), over_add.view(),
                        over_add.view(), p.dgain.vector_view(), {});
    EXPECT_EQ(over_add.values(), p.dx.values());
  }
}

TEST(LayerNorm, BitsDoNotDependOnThreads) {
  for (const DType dtype : test::floating_dtypes()) {
    Problem one(dtype, 301, 100);
    one.forward(1);
    one.backward(1);
    for (const int threads : {2, 3}) {
      Problem more(dtype, 301, 100);
      more.forward(threads);
      more.backward(threads);
      EXPECT_EQ(more.y, one.y);
      EXPECT_EQ(more.dx, one.dx);
      EXPECT_EQ(more.dgain, one.dgain);
      EXPECT_EQ(more.dbias, one.dbias);
    }
  }
}

TEST(LayerNorm, RefusesShapesThatDoNotFit) {
  Problem p(DType::kF32, 5, 8);
  HostTensor narrow(DType::kF32, 1, 7);
  core::MemoryTracker memory;
  OpContext context(1, memory);
  EXPECT_THROW(layer_norm_forward(context, p.x.view(), narrow.vector_view(), {}, kEps, p.y.view(),
                                  p.mean.vector_view(), p.rstd.vector_view()),
               core::Error);
}

TEST(LayerNorm, RefusesDeviceMemory) {
  Problem p(DType::kF32, 5, 8);
  core::MemoryTracker memory;
  OpContext context(1, memory);
  const core::ConstTensorView x(p.x.view().raw(), DType::kF32, {5, 8},
                                core::Device{core::DeviceType::kCuda, 0});
  try {
    layer_norm_forward(context, x, p.gain.vector_view(), {}, kEps, p.y.view(), p.mean.vector_view(),
                       p.rstd.vector_view());
    FAIL() << "device memory was accepted";
  } catch (const core::Error& error) {
    EXPECT_EQ(error.kind(), core::ErrorKind::kConfig);
    EXPECT_NE(std::string(error.what()).find("cuda:0"), std::string::npos);
  }
}

}  // namespace
}  // namespace lockstep::ops
