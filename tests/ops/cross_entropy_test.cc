#include "ops/cross_entropy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "core/random.h"
#include "tests/support/gradient_check.h"

namespace lockstep::ops {
namespace {

using core::DType;
using core::TensorView;

constexpr double kInf = std::numeric_limits<double>::infinity();

struct Options {
  double smoothing = 0.0;
  double z_loss = 0.0;
  double softcap = 0.0;
  float weight = 1.0F;
  std::int64_t sequence_rows = 0;

  ops::LossOptions loss() const {
    ops::LossOptions options;
    options.label_smoothing = smoothing;
    options.z_loss = z_loss;
    options.gradient_weight = weight;
    options.sequence_rows = sequence_rows;
    return options;
  }
};

constexpr Options kOptions[] = {{}, {0.1}, {0.0, 1e-2}, {0.0, 0.0, 3.0}, {0.1, 1e-2, 3.0, 0.25F}};

std::vector<double> random_logits(std::int64_t n, double scale) {
  std::vector<float> values(static_cast<std::size_t>(n));
  core::fill_normal(core::stream_key(1, "cross_entropy_test"), 0.0F, static_cast<float>(scale),
                    values.data(), values.size());
  return {values.begin(), values.end()};
}

// Every third row ignored, the others spread over the vocabulary, first and last included.
std::vector<std::int32_t> some_targets(std::int64_t rows, std::int64_t vocab) {
  std::vector<std::int32_t> targets;
  for (std::int64_t r = 0; r < rows; ++r)
    targets.push_back(r % 3 == 2 ? ops::kIgnored
                                 : static_cast<std::int32_t>(vocab - 1 - r * 7 % vocab));
  return targets;
}

// The formula of the header, plainly, in double.
struct Reference {
  ops::LossSums sums;
  std::vector<double> gradient;
};

Reference reference(const std::vector<double>& logits, std::int64_t vocab,
                    const std::vector<std::int32_t>& targets, const Options& o) {
  Reference result;
  result.gradient.assign(logits.size(), 0.0);
  const auto v = static_cast<std::size_t>(vocab);
  for (std::size_t r = 0; r < targets.size(); ++r) {
    if (targets[r] == ops::kIgnored) continue;
    std::vector<double> z(logits.begin() + static_cast<std::ptrdiff_t>(r * v),
                          logits.begin() + static_cast<std::ptrdiff_t>((r + 1) * v));
    for (double& x : z)
      x = o.softcap > 0.0 ? o.softcap * std::tanh(x / o.softcap) : x;
    const double maximum = *std::max_element(z.begin(), z.end());
    double sum = 0.0;
    for (const double x : z)
      sum += std::exp(x - maximum);
    const double lse = std::log(sum) + maximum;
    const auto target = static_cast<std::size_t>(targets[r]);
    const double plain = lse - z[target];
    double uniform = 0.0;
    for (std::size_t j = 0; j < v; ++j) {
      uniform += (lse - z[j]) / static_cast<double>(v);
      const double p = std::exp(z[j] - lse);
      double g = p - (j == target ? 1.0 - o.smoothing : 0.0) - o.smoothing / static_cast<double>(v);
      g += 2.0 * o.z_loss * lse * p;
      if (o.softcap > 0.0) g *= 1.0 - (z[j] / o.softcap) * (z[j] / o.softcap);
      result.gradient[r * v + j] = static_cast<double>(o.weight) * g;
    }
    result.sums.cross_entropy += plain;
    result.sums.optimised +=
        (1.0 - o.smoothing) * plain + o.smoothing * uniform + o.z_loss * lse * lse;
    ++result.sums.counted;
  }
  return result;
}

struct Outcome {
  ops::LossSums sums;
  std::vector<double> gradient;
};

// Runs the op with gradients of `dtype`, in place or beside the logits.
Outcome run(const std::vector<double>& logits, std::int64_t vocab,
            const std::vector<std::int32_t>& targets, const Options& o, DType dtype, bool in_place,
            int threads = 1) {
  core::MemoryTracker memory;
  OpContext context(threads, memory);
  const DType wide = core::accumulate_dtype(dtype);
  const auto rows = static_cast<std::int64_t>(targets.size());
  core::Buffer x(memory, "test", logits.size() * core::size_of(wide));
  core::Buffer apart(memory, "test", logits.size() * core::size_of(dtype));
  core::convert(DType::kF64, logits.data(), wide, x.data(), logits.size());
  const auto ratio = static_cast<std::int64_t>(core::size_of(wide) / core::size_of(dtype));
  const TensorView gradient = in_place ? TensorView(x.data(), dtype, {rows, vocab}, vocab * ratio)
                                       : apart.view(dtype, {rows, vocab});
  Outcome outcome;
  cross_entropy(context, x.view(wide, {rows, vocab}), targets, o.loss(), o.softcap, gradient,
                &outcome.sums);
  outcome.gradient.resize(logits.size());
  for (std::int64_t r = 0; r < rows; ++r) {
    const TensorView row = gradient.slice_rows(r, r + 1);
    core::convert(dtype, row.raw(), DType::kF64, outcome.gradient.data() + r * vocab,
                  static_cast<std::size_t>(vocab));
  }
  return outcome;
}

class CrossEntropy : public testing::TestWithParam<DType> {
 protected:
  double tolerance() const {
    switch (GetParam()) {
      case DType::kF64:
        return 1e-12;
      case DType::kF32:
        return 1e-6;
      case DType::kF16:
        return 1e-3;
      default:
        return 4e-3;
    }
  }
};

// Sequences of 3 rows, of which one has no target and one a single one.
TEST_P(CrossEntropy, WeighsRowsBySequence) {
  constexpr std::int64_t kVocab = 37;
  const std::vector<std::int32_t> targets = {4,
                                             36,
                                             0,
                                             ops::kIgnored,
                                             7,
                                             ops::kIgnored,
                                             ops::kIgnored,
                                             ops::kIgnored,
                                             ops::kIgnored,
                                             1,
                                             ops::kIgnored,
                                             2};
  const std::vector<double> weights = {1.0 / 3, 1, 0, 0.5};
  const auto logits = random_logits(12 * kVocab, 2.0);
  for (Options o : kOptions) {
    Reference expected;
    for (std::size_t r = 0; r < targets.size(); ++r) {
      const auto at = static_cast<std::ptrdiff_t>(r) * kVocab;
      const Reference row =
          reference({logits.begin() + at, logits.begin() + at + kVocab}, kVocab, {targets[r]}, o);
      for (const double g : row.gradient)
        expected.gradient.push_back(g * weights[r / 3]);
      expected.sums.optimised += row.sums.optimised * weights[r / 3];
      expected.sums.cross_entropy += row.sums.cross_entropy;
      expected.sums.counted += row.sums.counted;
    }
    o.sequence_rows = 3;
    for (const bool in_place : {false, true}) {
      const Outcome found = run(logits, kVocab, targets, o, GetParam(), in_place);
      EXPECT_EQ(found.sums.counted, 6);
      EXPECT_EQ(found.sums.terms, 3);
      EXPECT_NEAR(found.sums.optimised, expected.sums.optimised, 1e-5);
      EXPECT_NEAR(found.sums.cross_entropy, expected.sums.cross_entropy, 1e-5);
      EXPECT_LT(test::relative_difference(found.gradient, expected.gradient), tolerance());
    }
  }
  EXPECT_EQ(run(logits, kVocab, targets, kOptions[0], GetParam(), false).sums.terms, 6);
}

TEST_P(CrossEntropy, EqualsTheFormula) {
  for (const Options& o : kOptions) {
    for (const std::int64_t vocab : {1, 2, 37, 1024, 5003}) {
      const auto logits = random_logits(7 * vocab, 2.0);
      const auto targets = some_targets(7, vocab);
      const Reference expected = reference(logits, vocab, targets, o);
      for (const bool in_place : {false, true}) {
        const Outcome found = run(logits, vocab, targets, o, GetParam(), in_place);
        EXPECT_EQ(found.sums.counted, expected.sums.counted);
        EXPECT_NEAR(found.sums.optimised, expected.sums.optimised,
                    1e-6 * (1.0 + std::abs(expected.sums.optimised)));
        EXPECT_NEAR(found.sums.cross_entropy, expected.sums.cross_entropy,
                    1e-6 * (1.0 + expected.sums.cross_entropy));
        if (vocab > 1) {
          EXPECT_LT(test::relative_difference(found.gradient, expected.gradient), tolerance())
              << "vocab " << vocab << " in place " << in_place;
        }
      }
    }
  }
}

TEST_P(CrossEntropy, BitsDoNotDependOnThreadsOrPlace) {
  const Options o{0.1, 1e-3, 30.0, 0.5F};
  const auto logits = random_logits(50 * 1531, 4.0);
  const auto targets = some_targets(50, 1531);
  const Outcome one = run(logits, 1531, targets, o, GetParam(), false);
  for (const int threads : {1, 2, 3}) {
    const Outcome other = run(logits, 1531, targets, o, GetParam(), true, threads);
    EXPECT_EQ(one.sums.optimised, other.sums.optimised);
    EXPECT_EQ(one.sums.cross_entropy, other.sums.cross_entropy);
    EXPECT_EQ(one.gradient, other.gradient);
  }
}

TEST_P(CrossEntropy, HugeLogitsAreExact) {
  std::vector<double> logits(300, -1e4);
  logits[5] = 1e4;
  logits[7] = 1e4 - 1.0;
  const Reference expected = reference(logits, 300, {7}, {});
  const Outcome found = run(logits, 300, {7}, {}, GetParam(), true);
  EXPECT_NEAR(found.sums.cross_entropy, expected.sums.cross_entropy, 1e-6);
  EXPECT_LT(test::relative_difference(found.gradient, expected.gradient), tolerance());
  const Outcome far = run(logits, 300, {0}, {}, GetParam(), true);
  EXPECT_NEAR(far.sums.cross_entropy, 2e4 + std::log1p(std::exp(-1.0)), 1e-2);
}

TEST_P(CrossEntropy, AllIgnoredGivesZeros) {
  const Outcome found = run(random_logits(20, 1.0), 5, {-1, -1, -1, -1}, {0.1}, GetParam(), true);
  EXPECT_EQ(found.sums.counted, 0);
  EXPECT_EQ(found.sums.optimised, 0.0);
  EXPECT_EQ(found.gradient, std::vector<double>(20, 0.0));
}

TEST_P(CrossEntropy, NonFiniteLogitsMakeTheirRowNonFinite) {
  for (const double bad : {std::nan(""), kInf}) {
    auto logits = random_logits(2 * 2500, 1.0);
    logits[2400] = bad;
    const Outcome found = run(logits, 2500, {3, 4}, {}, GetParam(), true);
    EXPECT_TRUE(std::isnan(found.sums.cross_entropy));
    EXPECT_TRUE(std::isnan(found.gradient[0]));
    EXPECT_TRUE(std::isfinite(found.gradient[2500]));
    const Outcome ignored = run(logits, 2500, {ops::kIgnored, 4}, {}, GetParam(), true);
    EXPECT_TRUE(std::isfinite(ignored.sums.cross_entropy));
  }
}

TEST_P(CrossEntropy, MaskedLogitsHaveNoProbability) {
  auto logits = random_logits(4000, 1.0);
  for (std::size_t j = 0; j < 2100; ++j)
    logits[j] = -kInf;  // whole blocks of them, before any finite one
  const Outcome found = run(logits, 4000, {3000}, {}, GetParam(), true);
  const Reference expected = reference(logits, 4000, {3000}, {});
  EXPECT_NEAR(found.sums.cross_entropy, expected.sums.cross_entropy, 1e-5);
  EXPECT_EQ(found.gradient[0], 0.0);
  EXPECT_LT(test::relative_difference(found.gradient, expected.gradient), tolerance());
}

INSTANTIATE_TEST_SUITE_P(DTypes, CrossEntropy,
                         testing::Values(DType::kF32, DType::kBF16, DType::kF16, DType::kF64),
                         [](const auto& dtype) { return std::string(core::name_of(dtype.param)); });

TEST(CrossEntropyGradient, EqualsFiniteDifferences) {
  for (const Options& o : kOptions) {
    core::MemoryTracker memory;
    OpContext context(1, memory);
    const std::int64_t vocab = 23;
    auto logits = random_logits(6 * vocab, 2.0);
    const auto targets = some_targets(6, vocab);
    const core::ConstTensorView view(logits.data(), DType::kF64, {6, vocab});
    const auto loss = [&] {
      ops::LossSums sums;
      cross_entropy(context, view, targets, o.loss(), o.softcap, {}, &sums);
      return static_cast<double>(o.weight) * sums.optimised;
    };
    const Outcome found = run(logits, vocab, targets, o, DType::kF64, false);
    EXPECT_LT(test::gradient_error(loss, logits, found.gradient), 1e-9);
  }
}

TEST(CrossEntropyChecks, RefuseWhatDoesNotFit) {
  core::MemoryTracker memory;
  OpContext context(1, memory);
  std::vector<float> logits(12, 0.0F);
  const TensorView view(logits.data(), DType::kF32, {3, 4});
  const auto call = [&](const std::vector<std::int32_t>& targets, TensorView gradient) {
    ops::LossSums sums;
    cross_entropy(context, view, targets, {}, 0.0, gradient, &sums);
    return sums;
  };
  EXPECT_NO_THROW(call({0, 3, ops::kIgnored}, {}));
  try {
    call({0, 4, 1}, {});
    FAIL() << "a target outside the vocabulary was accepted";
  } catch (const core::Error& e) {
    EXPECT_EQ(e.kind(), core::ErrorKind::kData);
    EXPECT_NE(std::string(e.what()).find("target 4 at position 1"), std::string::npos);
  }
  EXPECT_THROW(call({0, 1}, {}), core::Error);
  // contiguous 16-bit gradients in the memory of the logits would run over later rows
  EXPECT_THROW(call({0, 1, 2}, TensorView(logits.data(), DType::kBF16, {3, 4})), core::Error);
  EXPECT_NO_THROW(call({0, 1, 2}, TensorView(logits.data(), DType::kBF16, {3, 4}, 8)));
}

TEST(SoftcapLogits, EqualsTheFormula) {
  core::MemoryTracker memory;
  OpContext context(2, memory);
  std::vector<float> x = {-1e4F, -3.0F, 0.0F, 0.5F, 100.0F, 1e30F};
  const std::vector<float> before = x;
  softcap_logits(context, 30.0, {x.data(), DType::kF32, {2, 3}});
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double expected = 30.0 * std::tanh(static_cast<double>(before[i]) / 30.0);
    EXPECT_NEAR(x[i], expected, 1e-5);
  }
  EXPECT_THROW(softcap_logits(context, 0.0, {x.data(), DType::kF32, {2, 3}}), core::Error);
}

}  // namespace
}  // namespace lockstep::ops
