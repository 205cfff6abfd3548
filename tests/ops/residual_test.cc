#include "ops/residual.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/support/gradient_check.h"
#include "tests/support/host_tensor.h"

namespace lockstep::ops {
namespace {

using core::DType;
using test::HostTensor;

constexpr std::int64_t kSequence = 3;

Dropout some_dropout() {
  Dropout dropout;
  dropout.probability = 0.25;
  dropout.key = core::stream_key(7, "residual");
  dropout.first_sequence = 11;
  dropout.sequence_rows = kSequence;
  return dropout;
}

// The factors of all elements of [rows, cols].
std::vector<double> factors_of(const Dropout& dropout, std::int64_t rows, std::int64_t cols) {
  std::vector<double> result(static_cast<std::size_t>(rows * cols), 1.0);
  if (!dropout.active()) return result;
  const std::int64_t per_sequence = kSequence * cols;
  std::vector<float> drawn(static_cast<std::size_t>(per_sequence));
  for (std::int64_t s = 0; s < rows / kSequence; ++s) {
    dropout_factors(dropout, dropout.first_sequence + s, 0, per_sequence, drawn.data());
    std::copy(drawn.begin(), drawn.end(), result.begin() + s * per_sequence);
  }
  return result;
}

struct Problem {
  Problem(DType dtype, std::int64_t rows, std::int64_t cols, std::int64_t gap = 0)
      : x(dtype, rows, cols, gap),
        branch(dtype, rows, cols, gap),
        gate(dtype, 1, 1),
        y(dtype, rows, cols, gap),
        dy(dtype, rows, cols, gap),
        dbranch(dtype, rows, cols, gap),
        dgate(dtype, 1, 1) {
    x.randomize(1);
    branch.randomize(2);
    gate.set({0.375});
    dy.randomize(3);
  }

  void forward(const Dropout& dropout, bool gated, int threads = 2) {
    core::MemoryTracker memory;
    OpContext context(threads, memory);
    residual_forward(context, x.view(), branch.view(),
                     gated ? gate.vector_view() : core::TensorView(), dropout, y.view());
  }
  void backward(const Dropout& dropout, bool gated, int threads = 2) {
    core::MemoryTracker memory;
    OpContext context(threads, memory);
    const core::TensorView none;
    residual_backward(context, dy.view(), gated ? branch.view() : none,
                      gated ? gate.vector_view() : none, dropout, dbranch.view(),
                      gated ? dgate.vector_view() : none);
  }

  HostTensor x, branch, gate, y, dy, dbranch, dgate;
};

template <typename F>
void for_each_case(F&& f) {
  for (const bool gated : {false, true})
    for (const Dropout& dropout : {Dropout{}, some_dropout()})
      f(dropout, gated);
}

TEST(Residual, ForwardMatchesTheFormulaInEveryDtypeAndLayout) {
  for (const DType dtype : test::floating_dtypes())
    for (const std::int64_t cols : {1, 7, 20, 64, 771})
      for (const std::int64_t gap : {0, 3})
        for_each_case([&](const Dropout& dropout, bool gated) {
          Problem p(dtype, 9, cols, gap);
          p.forward(dropout, gated);
          const std::vector<double> factors = factors_of(dropout, 9, cols);
          std::vector<double> expected = p.x.values();
          const std::vector<double> branch = p.branch.values();
          for (std::size_t i = 0; i < expected.size(); ++i)
            expected[i] += (gated ? 0.375 : 1.0) * factors[i] * branch[i];
          test::expect_close(p.y.values(), expected, test::tolerance_of(dtype), "y");
          EXPECT_TRUE(p.y.gaps_intact());
        });
}

TEST(Residual, BackwardMatchesTheFormulaInEveryDtypeAndLayout) {
  for (const DType dtype : test::floating_dtypes())
    for (const std::int64_t cols : {1, 7, 64, 771})
      for (const std::int64_t gap : {0, 3})
        for_each_case([&](const Dropout& dropout, bool gated) {
          Problem p(dtype, 9, cols, gap);
          p.backward(dropout, gated);
          const std::vector<double> factors = factors_of(dropout, 9, cols);
          const std::vector<double> branch = p.branch.values(), dy = p.dy.values();
          std::vector<double> expected(dy.size());
          double dgate = 0.0;
          for (std::size_t i = 0; i < expected.size(); ++i) {
            expected[i] = (gated ? 0.375 : 1.0) * factors[i] * dy[i];
            dgate += dy[i] * factors[i] * branch[i];
          }
          test::expect_close(p.dbranch.values(), expected, test::tolerance_of(dtype), "dbranch");
          if (gated)
            test::expect_close(p.dgate.values(), {dgate}, 10 * test::tolerance_of(dtype), "dgate");
          EXPECT_TRUE(p.dbranch.gaps_intact());
        });
}

TEST(Residual, BackwardMatchesCentralDifferences) {
  for_each_case([&](const Dropout& dropout, bool gated) {
    Problem p(DType::kF64, 6, 20);
    p.backward(dropout, gated);
    std::vector<double> branch = p.branch.values(), gate = p.gate.values();
    const std::vector<double> dy = p.dy.values();
    const auto loss = [&] {
      p.branch.set(branch);
      p.gate.set(gate);
      p.forward(dropout, gated, 1);
      return test::weighted_sum(dy, p.y.values());
    };
    EXPECT_LT(test::gradient_error(loss, branch, p.dbranch.values()), 1e-7);
    if (gated) {
      EXPECT_LT(test::gradient_error(loss, gate, p.dgate.values()), 1e-7);
    }
  });
}

TEST(Residual, OutputsMayReplaceInputs) {
  for (const DType dtype : test::floating_dtypes())
    for_each_case([&](const Dropout& dropout, bool gated) {
      Problem p(dtype, 9, 20);
      p.forward(dropout, gated);
      p.backward(dropout, gated);
      Problem q(dtype, 9, 20);
      core::MemoryTracker memory;
      OpContext context(1, memory);
      const core::TensorView none, gate = gated ? q.gate.vector_view() : none;
      residual_forward(context, q.x.view(), q.branch.view(), gate, dropout, q.x.view());
      EXPECT_EQ(q.x, p.y);
      residual_backward(context, q.dy.view(), gated ? q.branch.view() : none, gate, dropout,
                        q.dy.view(), gated ? q.dgate.vector_view() : none);
      EXPECT_EQ(q.dy, p.dbranch);
      Problem r(dtype, 9, 20);
      if (gated) return;
      residual_forward(context, r.x.view(), r.branch.view(), gate, dropout, r.branch.view());
      EXPECT_EQ(r.branch, p.y);
    });
}

TEST(Residual, BitsDoNotDependOnThreads) {
  for (const DType dtype : test::floating_dtypes())
    for_each_case([&](const Dropout& dropout, bool gated) {
      Problem one(dtype, 300, 771);
      one.forward(dropout, gated, 1);
      one.backward(dropout, gated, 1);
      for (const int threads : {2, 3}) {
        Problem more(dtype, 300, 771);
        more.forward(dropout, gated, threads);
        more.backward(dropout, gated, threads);
        EXPECT_EQ(more.y, one.y);
        EXPECT_EQ(more.dbranch, one.dbranch);
        EXPECT_EQ(more.dgate, one.dgate);
      }
    });
}

TEST(Residual, RefusesAProbabilityOfOne) {
  Problem p(DType::kF32, 6, 8);
  Dropout dropout = some_dropout();
  dropout.probability = 1.0;
  EXPECT_THROW(p.forward(dropout, false), core::Error);
}

}  // namespace
}  // namespace lockstep::ops
