#include "ops/rms_norm.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/support/gradient_check.h"
#include "tests/support/host_tensor.h"

namespace lockstep::ops {
namespace {

using core::DType;
using test::HostTensor;

constexpr double kEps = 1e-5;

// y of the formula, in double; a group is as wide as gain.
std::vector<double> reference(const std::vector<double>& x, const std::vector<double>& gain) {
  const std::size_t width = gain.size();
  std::vector<double> y(x.size());
  for (std::size_t begin = 0; begin < x.size(); begin += width) {
    double square = 0.0;
    for (std::size_t c = 0; c < width; ++c)
      square += x[begin + c] * x[begin + c] / static_cast<double>(width);
    for (std::size_t c = 0; c < width; ++c)
      y[begin + c] = x[begin + c] / std::sqrt(square + kEps) * gain[c];
  }
  return y;
}

struct Problem {
  Problem(DType dtype, std::int64_t rows, std::int64_t heads_in, std::int64_t width,
          std::int64_t gap = 0)
      : heads(heads_in),
        x(dtype, rows, heads * width, gap),
        gain(dtype, 1, width),
        y(dtype, rows, heads * width, gap),
        rstd(core::accumulate_dtype(dtype), 1, rows * heads),
        dy(dtype, rows, heads * width, gap),
        add(dtype, rows, heads * width, gap),
        dx(dtype, rows, heads * width, gap),
        dgain(dtype, 1, width) {
    x.randomize(1, 0.5, 2.0);
    gain.randomize(2, 1.0, 0.3);
    dy.randomize(4);
    add.randomize(5);
  }

  void forward(int threads = 2) {
    core::MemoryTracker memory;
    OpContext context(threads, memory);
    rms_norm_forward(context, x.view(), gain.vector_view(), kEps, heads, y.view(),
                     rstd.vector_view());
  }
  void backward(int threads = 2) {
    core::MemoryTracker memory;
    OpContext context(threads, memory);
    rms_norm_backward(context, dy.view(), x.view(), gain.vector_view(), rstd.vector_view(), heads,
                      add.view(), dx.view(), dgain.vector_view());
  }

  std::int64_t heads;
  HostTensor x, gain, y, rstd, dy, add, dx, dgain;
};

TEST(RmsNorm, ForwardMatchesTheFormulaInEveryDtypeAndLayout) {
  for (const DType dtype : test::floating_dtypes())
    for (const std::int64_t width : {1, 7, 20, 64, 771})
      for (const std::int64_t heads : {1, 3})
        for (const std::int64_t gap : {0, 3}) {
          Problem p(dtype, 9, heads, width, gap);
          p.forward();
          test::expect_close(p.y.values(), reference(p.x.values(), p.gain.values()),
                             test::tolerance_of(dtype), std::string(core::name_of(dtype)));
          EXPECT_TRUE(p.y.gaps_intact());
        }
}

TEST(RmsNorm, OutputMayReplaceInput) {
  for (const DType dtype : test::floating_dtypes()) {
    Problem p(dtype, 5, 2, 20);
    p.forward();
    core::MemoryTracker memory;
    OpContext context(1, memory);
    rms_norm_forward(context, p.x.view(), p.gain.vector_view(), kEps, p.heads, p.x.view(),
                     p.rstd.vector_view());
    EXPECT_EQ(p.x, p.y);
  }
}

// The loss whose gradients backward gives: sum(dy * y) + sum(add * x).
TEST(RmsNorm, BackwardMatchesCentralDifferences) {
  for (const std::int64_t width : {1, 7, 20, 64})
    for (const std::int64_t heads : {1, 3}) {
      Problem p(DType::kF64, 6, heads, width);
      p.forward();
      p.backward();
      std::vector<double> x = p.x.values(), gain = p.gain.values();
      const std::vector<double> dy = p.dy.values(), add = p.add.values();
      const auto loss = [&] {
        return test::weighted_sum(dy, reference(x, gain)) + test::weighted_sum(add, x);
      };
      EXPECT_LT(test::gradient_error(loss, x, p.dx.values()), 1e-7) << width;
      EXPECT_LT(test::gradient_error(loss, gain, p.dgain.values()), 1e-7) << width;
    }
}

TEST(RmsNorm, BackwardInOtherDtypesFollowsFp64) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16})
    for (const std::int64_t heads : {1, 4}) {
      Problem p(dtype, 33, heads, 77, 5);
      p.forward();
      p.backward();
      Problem exact(DType::kF64, 33, heads, 77);
      exact.x.set(p.x.values());
      exact.gain.set(p.gain.values());
      exact.dy.set(p.dy.values());
      exact.add.set(p.add.values());
      exact.forward();
      exact.backward();
      const double tolerance = 2 * test::tolerance_of(dtype);
      test::expect_close(p.dx.values(), exact.dx.values(), tolerance, "dx");
      test::expect_close(p.dgain.values(), exact.dgain.values(), tolerance, "dgain");
      EXPECT_TRUE(p.dx.gaps_intact());
    }
}

TEST(RmsNorm, BackwardMayWriteOverDyOrAddAndAddMayBeAbsent) {
  for (const DType dtype : test::floating_dtypes()) {
    Problem p(dtype, 5, 2, 32);
    p.forward();
    p.backward();
    core::MemoryTracker memory;
    OpContext context(1, memory);
    HostTensor over_dy = p.dy, over_add = p.add, without = p.dx, zero_add = p.dx;
    const auto run = [&](HostTensor& dy, core::ConstTensorView add, HostTensor& dx) {
      rms_norm_backward(context, dy.view(), p.x.view(), p.gain.vector_view(), p.rstd.vector_view(),
                        p.heads, add, dx.view(), p.dgain.vector_view());
    };
    run(over_dy, p.add.view(), over_dy);
    EXPECT_EQ(over_dy, p.dx);
    run(p.dy, over_add.view(), over_add);
    EXPECT_EQ(over_add, p.dx);
    HostTensor zeros(dtype, 5, 64);
    zeros.set(std::vector<double>(5 * 64, 0.0));
    run(p.dy, {}, without);
    run(p.dy, zeros.view(), zero_add);
    EXPECT_EQ(without.values(), zero_add.values());
    EXPECT_NE(without.values(), p.dx.values());
  }
}

TEST(RmsNorm, BitsDoNotDependOnThreads) {
  for (const DType dtype : test::floating_dtypes()) {
    Problem one(dtype, 301, 4, 25);
    one.forward(1);
    one.backward(1);
    for (const int threads : {2, 3}) {
      Problem more(dtype, 301, 4, 25);
      more.forward(threads);
      more.backward(threads);
      EXPECT_EQ(more.y, one.y);
      EXPECT_EQ(more.dx, one.dx);
      EXPECT_EQ(more.dgain, one.dgain);
    }
  }
}

TEST(RmsNorm, RefusesHeadsThatDoNotDivideTheRow) {
  Problem p(DType::kF32, 5, 1, 20);
  p.heads = 3;
  EXPECT_THROW(p.forward(), core::Error);
}

}  // namespace
}  // namespace lockstep::ops
