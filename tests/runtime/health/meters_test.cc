// What is counted of gradients and activations, against plain loops in double.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "core/memory.h"
#include "models/parametrization.h"
#include "runtime/health/activation_meter.h"
#include "runtime/health/attention_meter.h"
#include "runtime/health/gradient_census.h"

namespace lockstep::runtime {
namespace {

class MetersTest : public ::testing::Test {
 protected:
  core::MemoryTracker memory_;
  ops::OpContext context_{2, memory_};
  std::mt19937 random_{17};

  std::vector<float> normal(std::size_t n, float deviation) {
    std::normal_distribution<float> distribution(0.0F, deviation);
    std::vector<float> values(n);
    for (float& value : values)
      value = distribution(random_);
    return values;
  }
};

using CensusTest = MetersTest;

TEST_F(CensusTest, CountsAsAPlainLoopDoes) {
  // Magnitudes from far below fp16 to far above it, over more than one chunk of work.
  std::vector<float> x = normal(200003, 1.0F);
  for (std::size_t i = 0; i < x.size(); ++i)
    x[i] = std::ldexp(x[i], static_cast<int>(i % 80) - 50);
  x[0] = 0.0F;
  x[1] = -0.0F;
  x[2] = 1e-42F;  // subnormal
  x[3] = std::ldexp(1.0F, -24);
  x[4] = std::nextafter(std::ldexp(1.0F, -24), 0.0F);
  x[5] = 65536.0F;
  x[6] = -std::nextafter(65536.0F, 0.0F);
  const GradientCensus census =
      take_census(context_, x.data(), static_cast<std::int64_t>(x.size()));
  std::int64_t zeros = 0;
  std::int64_t lost = 0;
  std::int64_t beyond = 0;
  std::int64_t subnormal = 0;
  std::int64_t subnormal_f16 = 0;
  float greatest = 0.0F;
  for (const float v : x) {
    const float magnitude = std::abs(v);
    zeros += v == 0.0F;
    lost += v != 0.0F && magnitude < std::ldexp(1.0F, -24);
    beyond += magnitude >= 65536.0F;
    subnormal += v != 0.0F && magnitude < std::numeric_limits<float>::min();
    subnormal_f16 += v != 0.0F && magnitude < std::ldexp(1.0F, -14);
    greatest = std::max(greatest, magnitude);
  }
  ASSERT_GT(lost, 1000);
  ASSERT_GT(beyond, 1000);
  EXPECT_EQ(census.elements(), static_cast<std::int64_t>(x.size()));
  EXPECT_EQ(census.zeros, zeros);
  EXPECT_EQ(census.below(-24), lost);
  EXPECT_EQ(census.from(16), beyond);
  EXPECT_EQ(census.subnormal(core::DType::kF32), subnormal);
  EXPECT_EQ(census.subnormal(core::DType::kBF16), subnormal);
  EXPECT_EQ(census.subnormal(core::DType::kF16), subnormal_f16);
  EXPECT_EQ(census.greatest, greatest);
  EXPECT_EQ(census.nonfinite(), 0);

  const GradientHistogram h = census.histogram();
  ASSERT_EQ(h.positive.size(), h.negative.size());
  for (std::size_t bin = 0; bin < h.positive.size(); ++bin) {
    const float from = std::ldexp(1.0F, h.first_exponent + static_cast<int>(bin));
    std::int64_t positive = 0;
    std::int64_t negative = 0;
    for (const float v : x) {
      if (std::abs(v) < from || std::abs(v) >= 2.0F * from) continue;
      (v > 0.0F ? positive : negative) += 1;
    }
    EXPECT_EQ(h.positive[bin], positive) << bin;
    EXPECT_EQ(h.negative[bin], negative) << bin;
  }
  EXPECT_GT(h.positive.front() + h.negative.front(), 0);
  EXPECT_GT(h.positive.back() + h.negative.back(), 0);
}

TEST_F(CensusTest, WhatIsNotFiniteIsBeyondEveryTypeAndNoMaximum) {
  const std::vector<float> x = {1.0F, std::numeric_limits<float>::infinity(),
                                std::numeric_limits<float>::quiet_NaN(), -2.0F};
  const GradientCensus census = take_census(context_, x.data(), 4);
  EXPECT_EQ(census.nonfinite(), 2);
  EXPECT_EQ(census.from(16), 2);
  EXPECT_EQ(census.greatest, 2.0F);
}

TEST_F(CensusTest, PartsThatTravelledMakeTheWhole) {
  const std::vector<float> x = normal(1000, 1e-3F);
  const GradientCensus whole = take_census(context_, x.data(), 1000);
  std::string bytes = take_census(context_, x.data(), 300).packed();
  bytes += take_census(context_, x.data() + 300, 700).packed();
  std::string_view rest = bytes;
  GradientCensus sum = GradientCensus::unpack(rest);
  sum.merge(GradientCensus::unpack(rest));
  EXPECT_TRUE(rest.empty());
  EXPECT_EQ(sum.counts, whole.counts);
  EXPECT_EQ(sum.zeros, whole.zeros);
  EXPECT_EQ(sum.greatest, whole.greatest);
}

models::ModelConfig small_model() {
  models::ModelConfig config;
  config.layers = 2;
  config.heads = 4;
  config.kv_heads = 2;
  config.width = 32;
  config.ffn_width = 48;
  config.context = 12;
  config.vocab = 64;
  return config;
}

// The scores of one sequence by their definition.
AttentionScores plain_scores(const models::ModelConfig& config, int block,
                             const std::vector<float>& qk, std::int64_t length) {
  const std::int64_t d = config.head_width();
  const std::int64_t stride = config.q_width() + config.kv_width();
  const double scale = models::attention_scale(config);
  AttentionScores found;
  found.logit_max = -1e300;
  for (std::int64_t h = 0; h < config.heads; ++h) {
    const std::int64_t kv = h / (config.heads / config.kv_heads);
    for (std::int64_t t = 0; t < length; ++t) {
      std::vector<double> scores;
      for (std::int64_t s = 0; s < length; ++s) {
        if (config.causal() && s > t) continue;
        const std::int64_t window = config.window_of(block);
        if (window > 0 && s + window <= t) continue;
        double score = 0.0;
        for (std::int64_t i = 0; i < d; ++i)
          score += static_cast<double>(qk[static_cast<std::size_t>(t * stride + h * d + i)]) *
                   qk[static_cast<std::size_t>(s * stride + config.q_width() + kv * d + i)];
        scores.push_back(score * scale);
      }
      if (scores.size() < 2) continue;
      double sum = 0.0;
      for (const double score : scores)
        sum += std::exp(score);
      double entropy = 0.0;
      for (const double score : scores) {
        const double p = std::exp(score) / sum;
        if (p > 0.0) entropy -= p * std::log(p);
        found.logit_max = std::max(found.logit_max, score);
      }
      found.entropy.add(entropy / std::log(static_cast<double>(scores.size())));
      found.rows += 1;
    }
  }
  return found;
}

TEST_F(MetersTest, AttentionAgreesWithItsDefinition) {
  for (const std::int64_t window : {0, 5}) {
    for (const auto family : {models::Family::kGpt, models::Family::kBert}) {
      models::ModelConfig config = small_model();
      config.family = family;
      if (window > 0) {
        if (family == models::Family::kBert) continue;  // windows are causal
        config.attention_window = {window};
      }
      const std::int64_t cols = config.q_width() + config.kv_width();
      const std::vector<float> qk = normal(static_cast<std::size_t>(12 * cols), 1.5F);
      const AttentionScores expected = plain_scores(config, 0, qk, 12);
      const AttentionScores found = measure_attention(
          context_, config, 0, {qk.data(), core::DType::kF32, core::Shape{12, cols}});
      EXPECT_EQ(found.rows, expected.rows);
      EXPECT_NEAR(found.logit_max, expected.logit_max, 1e-5 * expected.logit_max);
      EXPECT_NEAR(found.entropy.value(), expected.entropy.value(), 1e-5 * expected.entropy.value());
    }
  }
}

TEST_F(MetersTest, ActivationsAgreeWithPlainSumsAndPartsWithTheWhole) {
  const models::ModelConfig config = small_model();
  const std::int64_t rows = 24;
  const std::vector<float> output = normal(static_cast<std::size_t>(rows * 32), 2.0F);
  std::vector<float> units = normal(static_cast<std::size_t>(rows * 48), 1.0F);
  for (std::size_t i = 0; i < units.size(); ++i) {
    if (i % 48 < 12) units[i] *= 1e-5F;  // a quarter never leaves the neighbourhood of zero
  }
  const auto view = [](const std::vector<float>& x, std::int64_t first, std::int64_t n,
                       std::int64_t cols) {
    return core::ConstTensorView(x.data() + first * cols, core::DType::kF32, core::Shape{n, cols});
  };
  ActivationMeter whole(config, context_);
  whole.see({1, "output", view(output, 0, rows, 32)});
  whole.see({1, "mlp.activated", view(units, 0, rows, 48)});
  double squares = 0.0;
  double greatest = 0.0;
  for (const float v : output) {
    squares += static_cast<double>(v) * v;
    greatest = std::max(greatest, static_cast<double>(std::abs(v)));
  }
  const LayerActivity& found = whole.layers()[2];
  EXPECT_EQ(found.elements, rows * 32);
  EXPECT_NEAR(found.squares.value(), squares, 1e-12 * squares);
  EXPECT_EQ(found.greatest, greatest);
  EXPECT_EQ(std::count(found.alive.begin(), found.alive.end(), 0), 12);
  EXPECT_EQ(whole.layers()[0].elements, 0);

  ActivationMeter first(config, context_);
  ActivationMeter second(config, context_);
  for (ActivationMeter* meter : {&first, &second}) {
    const std::int64_t begin = meter == &first ? 0 : 14;
    const std::int64_t n = meter == &first ? 14 : rows - 14;
    meter->see({1, "output", view(output, begin, n, 32)});
    meter->see({1, "mlp.activated", view(units, begin, n, 48)});
  }
  const std::string bytes = second.layers()[2].packed() + first.layers()[2].packed();
  std::string_view rest = bytes;
  LayerActivity sum = LayerActivity::unpack(rest);
  sum.merge(LayerActivity::unpack(rest));
  EXPECT_TRUE(rest.empty());
  EXPECT_EQ(sum.squares, found.squares);
  EXPECT_EQ(sum.greatest, found.greatest);
  EXPECT_EQ(sum.alive, found.alive);
}

}  // namespace
}  // namespace lockstep::runtime
