#include "ops/activation.h"

#include <gtest/gtest.h>

#include "tests/support/gradient_check.h"
#include "tests/support/host_tensor.h"

namespace lockstep::ops {
namespace {

using core::DType;
using test::HostTensor;

const std::vector<ActivationFunction> kFunctions = {
    ActivationFunction::kGelu,      ActivationFunction::kGeluTanh, ActivationFunction::kRelu,
    ActivationFunction::kLeakyRelu, ActivationFunction::kElu,      ActivationFunction::kSilu,
    ActivationFunction::kTanh};

// The formulas as they are written down, with the standard library's functions.
double reference(ActivationFunction f, double x) {
  switch (f) {
    case ActivationFunction::kGelu:
      return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
    case ActivationFunction::kGeluTanh:
      return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
    case ActivationFunction::kRelu:
      return std::max(x, 0.0);
    case ActivationFunction::kLeakyRelu:
      return x > 0.0 ? x : 0.01 * x;
    case ActivationFunction::kElu:
      return x > 0.0 ? x : std::expm1(x);
    case ActivationFunction::kSilu:
      return x / (1.0 + std::exp(-x));
    case ActivationFunction::kTanh:
      return std::tanh(x);
  }
  return 0.0;
}

std::vector<double> reference(ActivationFunction f, const std::vector<double>& x) {
  std::vector<double> y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i)
    y[i] = reference(f, x[i]);
  return y;
}

std::vector<double> product(std::vector<double> a, const std::vector<double>& b) {
  for (std::size_t i = 0; i < a.size(); ++i)
    a[i] *= b[i];
  return a;
}

std::string name_of(ActivationFunction f, DType dtype) {
  return "function " + std::to_string(static_cast<int>(f)) + ", " +
         std::string(core::name_of(dtype));
}

struct Problem {
  Problem(DType dtype, std::int64_t rows, std::int64_t cols, std::int64_t gap = 0)
      : x(dtype, rows, cols, gap),
        up(dtype, rows, cols, gap),
        y(dtype, rows, cols, gap),
        dy(dtype, rows, cols, gap),
        dx(dtype, rows, cols, gap),
        dup(dtype, rows, cols, gap) {
    x.randomize(1, 0.0, 2.0);
    up.randomize(2);
    dy.randomize(3);
  }

  void plain(ActivationFunction f, int threads = 2) {
    core::MemoryTracker memory;
    OpContext context(threads, memory);
    activation_forward(context, f, x.view(), y.view());
    activation_backward(context, f, x.view(), dy.view(), dx.view());
  }
  void gated(ActivationFunction f, int threads = 2) {
    core::MemoryTracker memory;
    OpContext context(threads, memory);
    gated_activation_forward(context, f, x.view(), up.view(), y.view());
    gated_activation_backward(context, f, x.view(), up.view(), dy.view(), dx.view(), dup.view());
  }

  HostTensor x, up, y, dy, dx, dup;
};

TEST(Activation, ForwardMatchesTheFormulaInEveryDtypeAndLayout) {
  for (const ActivationFunction f : kFunctions)
    for (const DType dtype : test::floating_dtypes())
      for (const std::int64_t cols : {1, 7, 20, 64, 771})
        for (const std::int64_t gap : {0, 3}) {
          Problem p(dtype, 9, cols, gap);
          p.plain(f);
          const std::vector<double> expected = reference(f, p.x.values());
          const double tolerance = test::tolerance_of(dtype);
          test::expect_close(p.y.values(), expected, tolerance, name_of(f, dtype));
          EXPECT_TRUE(p.y.gaps_intact());
          EXPECT_TRUE(p.dx.gaps_intact());
          p.gated(f);
          test::expect_close(p.y.values(), product(expected, p.up.values()), tolerance,
                             name_of(f, dtype) + ", gated");
          EXPECT_TRUE(p.y.gaps_intact());
        }
}

TEST(Activation, BackwardMatchesCentralDifferences) {
  for (const ActivationFunction f : kFunctions) {
    Problem p(DType::kF64, 6, 20);
    std::vector<double> x = p.x.values();
    for (double& v : x)
      if (std::abs(v) < 0.01) v = 0.5;  // away from the kinks at 0
    p.x.set(x);
    p.plain(f);
    const std::vector<double> dy = p.dy.values();
    const auto loss = [&] { return test::weighted_sum(dy, reference(f, x)); };
    EXPECT_LT(test::gradient_error(loss, x, p.dx.values()), 1e-8) << name_of(f, DType::kF64);

    p.gated(f);
    std::vector<double> up = p.up.values();
    const auto gated = [&] { return test::weighted_sum(dy, product(reference(f, x), up)); };
    EXPECT_LT(test::gradient_error(gated, x, p.dx.values()), 1e-8) << name_of(f, DType::kF64);
    EXPECT_LT(test::gradient_error(gated, up, p.dup.values()), 1e-8) << name_of(f, DType::kF64);
  }
}

TEST(Activation, BackwardInOtherDtypesFollowsFp64) {
  for (const ActivationFunction f : kFunctions)
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      Problem p(dtype, 9, 771, 5), exact(DType::kF64, 9, 771);
      exact.x.set(p.x.values());
      exact.up.set(p.up.values());
      exact.dy.set(p.dy.values());
      const double tolerance = 2 * test::tolerance_of(dtype);
      p.plain(f);
      exact.plain(f);
      test::expect_close(p.dx.values(), exact.dx.values(), tolerance, name_of(f, dtype));
      p.gated(f);
      exact.gated(f);
      test::expect_close(p.dx.values(), exact.dx.values(), tolerance, name_of(f, dtype));
      test::expect_close(p.dup.values(), exact.dup.values(), tolerance, name_of(f, dtype));
    }
}

TEST(Activation, FarValuesAndTheirSlopesStayFinite) {
  const std::vector<double> far = {-3e38, -1e20, -1000.0, -100.0, -20.0, 20.0, 100.0, 1e20, 3e38};
  for (const ActivationFunction f : kFunctions)
    for (const DType dtype : {DType::kF32, DType::kF64}) {
      Problem p(dtype, 1, static_cast<std::int64_t>(far.size()));
      p.x.set(far);
      p.dy.set(std::vector<double>(far.size(), 1.0));
      p.plain(f);
      test::expect_close(p.y.values(), reference(f, p.x.values()), 4e-6, name_of(f, dtype));
      const std::vector<double> slopes = p.dx.values();
      for (std::size_t i = 0; i < slopes.size(); ++i) {
        const bool negative = far[i] < 0.0;
        const double expected = f == ActivationFunction::kTanh        ? 0.0
                                : !negative                           ? 1.0
                                : f == ActivationFunction::kLeakyRelu ? 0.01
                                                                      : 0.0;
        EXPECT_NEAR(slopes[i], expected, 1e-6) << name_of(f, dtype) << " at " << far[i];
      }
    }
}

TEST(Activation, NaNPassesThrough) {
  for (const ActivationFunction f : kFunctions)
    for (const DType dtype : test::floating_dtypes()) {
      Problem p(dtype, 1, 20);
      p.x.set(std::vector<double>(20, std::nan("")));
      p.plain(f);
      for (const double y : p.y.values())
        EXPECT_TRUE(std::isnan(y)) << name_of(f, dtype);
    }
}

TEST(Activation, OutputsMayReplaceInputs) {
  for (const ActivationFunction f : kFunctions)
    for (const DType dtype : test::floating_dtypes()) {
      core::MemoryTracker memory;
      OpContext context(1, memory);
      Problem p(dtype, 5, 77), q(dtype, 5, 77);
      p.plain(f);
      activation_backward(context, f, q.x.view(), q.dy.view(), q.dy.view());
      EXPECT_EQ(q.dy, p.dx);
      activation_forward(context, f, q.x.view(), q.x.view());
      EXPECT_EQ(q.x, p.y);
      Problem r(dtype, 5, 77);
      p.gated(f);
      gated_activation_backward(context, f, r.x.view(), r.up.view(), r.dy.view(), r.x.view(),
                                r.up.view());
      EXPECT_EQ(r.x, p.dx);
      EXPECT_EQ(r.up, p.dup);
    }
}

TEST(Activation, BitsDoNotDependOnThreadsOrPosition) {
  for (const ActivationFunction f : kFunctions)
    for (const DType dtype : test::floating_dtypes()) {
      Problem one(dtype, 70, 771), strided(dtype, 70, 771, 3);
      one.gated(f, 1);
      strided.gated(f, 1);
      EXPECT_EQ(strided.y.values(), one.y.values());
      EXPECT_EQ(strided.dx.values(), one.dx.values());
      for (const int threads : {2, 3}) {
        Problem more(dtype, 70, 771);
        more.gated(f, threads);
        EXPECT_EQ(more.y, one.y);
        EXPECT_EQ(more.dx, one.dx);
        EXPECT_EQ(more.dup, one.dup);
      }
    }
}

}  // namespace
}  // namespace lockstep::ops
