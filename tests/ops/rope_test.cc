#include "ops/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/error.h"
#include "core/memory.h"
#include "core/random.h"
#include "tests/support/gradient_check.h"

namespace lockstep::ops {
namespace {

using core::DType;
using core::TensorView;

constexpr std::int64_t kLength = 9;
constexpr double kTheta = 10000.0;

std::vector<double> random_values(std::int64_t n) {
  std::vector<float> values(static_cast<std::size_t>(n));
  core::fill_normal(core::stream_key(3, "rope test"), 0.0F, 1.0F, values.data(), values.size());
  return {values.begin(), values.end()};
}

// Hugging Face's Llama: x * cos + rotate_half(x) * sin, where cos and sin repeat the D/2 angles
// twice and rotate_half([a, b]) = [-b, a].
std::vector<double> rotate_half_form(const std::vector<double>& x, std::int64_t length,
                                     std::int64_t cols, std::int64_t width) {
  std::vector<double> y(x.size());
  const std::int64_t half = width / 2;
  for (std::size_t n = 0; n < x.size(); ++n) {
    const auto index = static_cast<std::int64_t>(n);
    const auto t = static_cast<double>(index / cols % length);
    const std::int64_t d = index % cols % width;
    const double angle =
        t / std::pow(kTheta, 2.0 * static_cast<double>(d % half) / static_cast<double>(width));
    const double rotated =
        d < half ? -x[n + static_cast<std::size_t>(half)] : x[n - static_cast<std::size_t>(half)];
    y[n] = x[n] * std::cos(angle) + rotated * std::sin(angle);
  }
  return y;
}

template <typename T>
class Rope {
 public:
  using A = core::AccumulateT<T>;

  Rope(std::int64_t width, int threads) : width_(width), context_(threads, memory_) {
    cosines_.resize(static_cast<std::size_t>(kLength * width / 2));
    sines_.resize(cosines_.size());
    fill_rope_table(context_, kTheta, {}, table(cosines_), table(sines_));
  }

  // x is [rows, cols], a column slice of a buffer with 3 more columns.
  std::vector<double> apply(RopeDirection direction, std::int64_t length,
                            const std::vector<double>& x, std::int64_t cols) {
    const std::int64_t rows = static_cast<std::int64_t>(x.size()) / cols;
    std::vector<T> buffer(static_cast<std::size_t>(rows * (cols + 3)), T(A(5)));
    const TensorView view = TensorView(buffer.data(), core::DTypeOf<T>::value, {rows, cols + 3})
                                .slice_cols(2, 2 + cols);
    for (std::size_t i = 0; i < x.size(); ++i)
      view.row<T>(static_cast<std::int64_t>(i) / cols)[static_cast<std::int64_t>(i) % cols] =
          static_cast<T>(static_cast<A>(x[i]));
    rope(context_, direction, length, width_, table(cosines_), table(sines_), view);
    std::vector<double> y(x.size());
    for (std::size_t i = 0; i < x.size(); ++i)
      y[i] = static_cast<double>(static_cast<A>(
          view.row<T>(static_cast<std::int64_t>(i) / cols)[static_cast<std::int64_t>(i) % cols]));
    for (std::int64_t r = 0; r < rows; ++r)
      EXPECT_EQ(static_cast<A>(buffer[static_cast<std::size_t>(r * (cols + 3))]), A(5));
    return y;
  }

 private:
  TensorView table(std::vector<A>& values) {
    return {values.data(), core::DTypeOf<A>::value, {kLength, width_ / 2}};
  }
  std::int64_t width_;
  core::MemoryTracker memory_;
  OpContext context_;
  std::vector<A> cosines_;
  std::vector<A> sines_;
};

template <typename T>
void check_formula(double tolerance) {
  for (const std::int64_t width : {2, 8, 20, 64}) {
    for (const std::int64_t length : {std::int64_t{1}, std::int64_t{5}, kLength}) {
      const std::vector<double> x = random_values(2 * length * 3 * width);
      const std::vector<double> y =
          Rope<T>(width, 2).apply(RopeDirection::kForward, length, x, 3 * width);
      const std::vector<double> expected = rotate_half_form(x, length, 3 * width, width);
      EXPECT_LT(test::relative_difference(y, expected), tolerance)
          << "width " << width << ", length " << length;
    }
  }
}

TEST(Rope, IsTheRotateHalfForm) {
  check_formula<double>(1e-15);
  check_formula<float>(1e-7);
  check_formula<core::BFloat16>(3e-3);
  check_formula<core::Float16>(4e-4);
}

TEST(Rope, BackwardIsTheInverseRotation) {
  const std::vector<double> x = random_values(2 * kLength * 2 * 20);
  Rope<double> op(20, 1);
  const std::vector<double> y = op.apply(RopeDirection::kForward, kLength, x, 40);
  EXPECT_GT(test::relative_difference(x, y), 0.1);
  EXPECT_LT(test::relative_difference(x, op.apply(RopeDirection::kBackward, kLength, y, 40)),
            1e-15);
}

TEST(Rope, BackwardEqualsCentralDifferences) {
  std::vector<double> x = random_values(kLength * 8);
  const std::vector<double> weights = random_values(kLength * 16);
  const std::vector<double> dy(weights.begin() + kLength * 8, weights.end());
  Rope<double> op(8, 1);
  const auto loss = [&] {
    return test::weighted_sum(dy, op.apply(RopeDirection::kForward, kLength, x, 8));
  };
  EXPECT_LT(test::gradient_error(loss, x, op.apply(RopeDirection::kBackward, kLength, dy, 8)),
            1e-9);
}

TEST(Rope, BitsDoNotDependOnThreads) {
  const std::vector<double> x = random_values(64 * kLength * 128);
  const auto one = Rope<float>(64, 1).apply(RopeDirection::kForward, kLength, x, 128);
  EXPECT_EQ(one, Rope<float>(64, 3).apply(RopeDirection::kForward, kLength, x, 128));
}

// What Transformers 5.24 computes for a head of 16 (modeling_rope_utils, fp32), to four digits or more.
TEST(Rope, ScaledFrequenciesAreThoseOfTransformers) {
  const RopeScaling linear{RopeScalingKind::kLinear, 4.0};
  const RopeScaling llama3{RopeScalingKind::kLlama3, 8.0, 1.0, 4.0, 8192};
  const double linear_expected[] = {.25,   .079056941, .025,   .007905695,
                                    .0025, .000790569, .00025, 7.9057e-5};
  const double llama3_expected[] = {1,          .193922758, .037606031, .007292665,
                                    .000524846, 3.4281e-5,  6.648e-6,   1.289e-6};
  for (int i = 0; i < 8; ++i) {
    const double slope = -i / 8.0;
    EXPECT_NEAR(scaled_frequency(linear, std::pow(1e4, slope)) / linear_expected[i], 1.0, 1e-5);
    EXPECT_NEAR(scaled_frequency(llama3, std::pow(5e5, slope)) / llama3_expected[i], 1.0, 5e-4);
    EXPECT_EQ(scaled_frequency({}, std::pow(1e4, slope)), std::pow(1e4, slope));
  }
}

TEST(Rope, RefusesWhatDoesNotFit) {
  const std::vector<double> x = random_values(kLength * 24);
  Rope<float> op(8, 1);
  EXPECT_THROW(op.apply(RopeDirection::kForward, kLength + 1, x, 24), core::Error);
  EXPECT_THROW(op.apply(RopeDirection::kForward, kLength, x, 12), core::Error);
}

}  // namespace
}  // namespace lockstep::ops
