#include "ops/fused_matmul.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/error.h"
#include "ops/reduce.h"
#include "tests/support/gradient_check.h"
#include "tests/support/host_tensor.h"

namespace lockstep::ops {
namespace {

using core::DType;
using core::TensorView;
using test::HostTensor;

constexpr ActivationFunction kFunctions[] = {
    ActivationFunction::kGelu,      ActivationFunction::kGeluTanh, ActivationFunction::kRelu,
    ActivationFunction::kLeakyRelu, ActivationFunction::kElu,      ActivationFunction::kSilu,
    ActivationFunction::kTanh};

struct Sizes {
  std::int64_t tokens, in, out, gap;
};
constexpr Sizes kSizes[] = {{1, 1, 1, 0}, {1, 40, 3, 0}, {33, 21, 70, 3}, {257, 64, 96, 8}};

HostTensor random(DType dtype, std::int64_t rows, std::int64_t cols, std::int64_t gap,
                  std::uint64_t seed) {
  HostTensor tensor(dtype, rows, cols, gap);
  tensor.randomize(seed);
  return tensor;
}

class FusedMatmul : public testing::Test {
 protected:
  core::MemoryTracker memory_;
  OpContext context_{2, memory_};
};

TEST_F(FusedMatmul, ForwardHasTheBitsOfTheSeparateOps) {
  for (const DType dtype : test::floating_dtypes())
    for (const ActivationFunction f : kFunctions)
      for (const Sizes& s : kSizes)
        for (const bool has_bias : {false, true}) {
          HostTensor x = random(dtype, s.tokens, s.in, s.gap, 1);
          HostTensor weight = random(dtype, s.out, s.in, 0, 2);
          HostTensor bias = random(dtype, 1, s.out, 0, 3);
          const TensorView b = has_bias ? bias.vector_view() : TensorView{};
          HostTensor pre(dtype, s.tokens, s.out, s.gap), y(dtype, s.tokens, s.out, s.gap);
          HostTensor want_pre = pre, want_y = y;
          matmul(context_, x.view(), Transpose::kNo, weight.view(), Transpose::kYes,
                 want_pre.view(), b);
          activation_forward(context_, f, want_pre.view(), want_y.view());
          matmul_activation_forward(context_, f, x.view(), weight.view(), b, pre.view(), y.view());
          EXPECT_TRUE(pre == want_pre && y == want_y)
              << core::name_of(dtype) << " function " << static_cast<int>(f) << ", " << s.tokens
              << " tokens, " << s.in << " to " << s.out;
        }
}

TEST_F(FusedMatmul, BackwardHasTheBitsOfTheSeparateOps) {
  for (const DType dtype : test::floating_dtypes())
    for (const ActivationFunction f : kFunctions)
      for (const Sizes& s : kSizes)
        for (const bool has_bias : {false, true}) {
          HostTensor dy = random(dtype, s.tokens, s.in, s.gap, 1);
          HostTensor weight = random(dtype, s.in, s.out, 0, 2);
          HostTensor pre = random(dtype, s.tokens, s.out, s.gap, 3);
          HostTensor dpre(dtype, s.tokens, s.out, s.gap), dbias(dtype, 1, s.out);
          HostTensor want_dpre = dpre, want_dbias = dbias;
          matmul(context_, dy.view(), Transpose::kNo, weight.view(), Transpose::kNo,
                 want_dpre.view());
          activation_backward(context_, f, pre.view(), want_dpre.view(), want_dpre.view());
          if (has_bias) column_sum(context_, want_dpre.view(), want_dbias.vector_view());
          matmul_activation_backward(context_, f, dy.view(), weight.view(), pre.view(), dpre.view(),
                                     has_bias ? dbias.vector_view() : TensorView{});
          EXPECT_TRUE(dpre == want_dpre && dbias == want_dbias)
              << core::name_of(dtype) << " function " << static_cast<int>(f) << ", " << s.tokens
              << " tokens, " << s.in << " to " << s.out;
        }
}

TEST_F(FusedMatmul, WeightGradientHasTheBitsOfTheSeparateOps) {
  for (const DType dtype : test::floating_dtypes())
    for (const Sizes& s : kSizes)
      for (const bool wide : {false, true})
        for (const bool has_bias : {false, true}) {
          HostTensor dy = random(dtype, s.tokens, s.out, s.gap, 1);
          HostTensor x = random(dtype, s.tokens, s.in, s.gap, 2);
          const DType of_weight = wide ? core::accumulate_dtype(dtype) : dtype;
          HostTensor dweight(of_weight, s.out, s.in), dbias(dtype, 1, s.out);
          HostTensor want_dweight = dweight, want_dbias = dbias;
          matmul(context_, dy.view(), Transpose::kYes, x.view(), Transpose::kNo,
                 want_dweight.view());
          if (has_bias) column_sum(context_, dy.view(), want_dbias.vector_view());
          matmul_weight_gradient(context_, dy.view(), x.view(), dweight.view(),
                                 has_bias ? dbias.vector_view() : TensorView{});
          EXPECT_TRUE(dweight == want_dweight && dbias == want_dbias)
              << core::name_of(dtype) << ", " << s.tokens << " tokens, " << s.in << " to " << s.out;
        }
}

// y = f(x W^T + b), then a second layer V without bias; the loss is a weighted sum of what that
// gives. Every gradient of the pair against central differences.
TEST_F(FusedMatmul, GradientsAgreeWithDifferences) {
  constexpr std::int64_t kTokens = 5, kIn = 4, kWide = 7, kOut = 3;
  for (const ActivationFunction f :
       {ActivationFunction::kGelu, ActivationFunction::kGeluTanh, ActivationFunction::kSilu}) {
    std::vector<double> x = random(DType::kF64, kTokens, kIn, 0, 1).values();
    std::vector<double> w = random(DType::kF64, kWide, kIn, 0, 2).values();
    std::vector<double> b = random(DType::kF64, 1, kWide, 0, 3).values();
    std::vector<double> v = random(DType::kF64, kOut, kWide, 0, 4).values();
    const HostTensor weights = HostTensor(DType::kF64, kTokens, kOut).randomize(5);
    HostTensor pre(DType::kF64, kTokens, kWide), y = pre, dpre = pre, out = weights, dy = weights;
    const auto matrix = [](std::vector<double>& values, std::int64_t rows) {
      const auto cols = static_cast<std::int64_t>(values.size()) / rows;
      return TensorView(values.data(), DType::kF64, {rows, cols});
    };
    const auto loss = [&] {
      matmul_activation_forward(context_, f, matrix(x, kTokens), matrix(w, kWide),
                                matrix(b, 1).reshaped({kWide}), pre.view(), y.view());
      matmul(context_, y.view(), Transpose::kNo, matrix(v, kOut), Transpose::kYes, out.view());
      return test::weighted_sum(weights.values(), out.values());
    };
    loss();
    std::vector<double> dw(w.size()), db(b.size()), dv(v.size()), dx(x.size());
    matmul_activation_backward(context_, f, dy.view(), matrix(v, kOut), pre.view(), dpre.view(),
                               matrix(db, 1).reshaped({kWide}));
    matmul_weight_gradient(context_, dpre.view(), matrix(x, kTokens), matrix(dw, kWide), {});
    matmul_weight_gradient(context_, dy.view(), y.view(), matrix(dv, kOut), {});
    matmul(context_, dpre.view(), Transpose::kNo, matrix(w, kWide), Transpose::kNo,
           matrix(dx, kTokens));
    EXPECT_LT(test::gradient_error(loss, x, dx), 1e-9);
    EXPECT_LT(test::gradient_error(loss, w, dw), 1e-9);
    EXPECT_LT(test::gradient_error(loss, b, db), 1e-9);
    EXPECT_LT(test::gradient_error(loss, v, dv), 1e-9);
    std::vector<double> sums(b.size());
    matmul_weight_gradient(context_, dpre.view(), matrix(x, kTokens), matrix(dw, kWide),
                           matrix(sums, 1).reshaped({kWide}));
    EXPECT_EQ(sums, db);
  }
}

TEST_F(FusedMatmul, RefusesWhatDoesNotFit) {
  HostTensor x(DType::kF32, 4, 5), weight(DType::kF32, 6, 5), pre(DType::kF32, 4, 6);
  HostTensor narrow(DType::kF32, 4, 7), half(DType::kBF16, 4, 6), bias(DType::kF32, 1, 7);
  constexpr auto kF = ActivationFunction::kRelu;
  const auto forward = [&](TensorView b, TensorView p, TensorView y) {
    matmul_activation_forward(context_, kF, x.view(), weight.view(), b, p, y);
  };
  EXPECT_NO_THROW(forward({}, pre.view(), pre.view()));
  EXPECT_THROW(forward({}, pre.view(), narrow.view()), core::Error);
  EXPECT_THROW(forward({}, pre.view(), half.view()), core::Error);
  EXPECT_THROW(forward(bias.vector_view(), pre.view(), pre.view()), core::Error);
  EXPECT_THROW(
      matmul_activation_backward(context_, kF, x.view(), weight.view(), pre.view(), pre.view(), {}),
      core::Error);
  EXPECT_THROW(
      matmul_weight_gradient(context_, pre.view(), x.view(), weight.view(), bias.vector_view()),
      core::Error);
  EXPECT_THROW(matmul_weight_gradient(context_, pre.view(), narrow.view(), weight.view(), {}),
               core::Error);
}

}  // namespace
}  // namespace lockstep::ops
