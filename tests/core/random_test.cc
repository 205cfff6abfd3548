#include "core/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace lockstep::core {
namespace {

// Known answers of the authors' library (Random123, philox4x32 with 10 rounds).
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox4x32({0, 0}, {0, 0, 0, 0}),
            (Philox4x32Block{0x6627e8d5U, 0xe169c58dU, 0xbc57ac4cU, 0x9b00dbd8U}));
  constexpr std::uint32_t kOnes = 0xffffffffU;
  EXPECT_EQ(philox4x32({kOnes, kOnes}, {kOnes, kOnes, kOnes, kOnes}),
            (Philox4x32Block{0x408f276dU, 0x41c83b0eU, 0xa20bc7c6U, 0x6d5451fdU}));
  EXPECT_EQ(
      philox4x32({0xa4093822U, 0x299f31d0U}, {0x243f6a88U, 0x85a308d3U, 0x13198a2eU, 0x03707344U}),
      (Philox4x32Block{0xd16cfe09U, 0x94fdccebU, 0x5001e420U, 0x24126ea1U}));
}

TEST(Philox, StreamsDifferBySeedPurposeAndNumber) {
  const auto key = stream_key(1, "weights");
  EXPECT_EQ(key, stream_key(1, "weights"));
  EXPECT_NE(key, stream_key(2, "weights"));
  EXPECT_NE(key, stream_key(1, "dropout"));
  EXPECT_NE(stream_key(1, "dropout", 3), stream_key(1, "dropout", 4));
  EXPECT_NE(stream_block(key, 5), stream_block(key, 6));
  EXPECT_NE(stream_block(key, 5, 0), stream_block(key, 5, 1));
  EXPECT_NE(stream_block(key, 1), stream_block(key, std::uint64_t{1} << 32));
}

TEST(Philox, UnitIntervals) {
  EXPECT_EQ(to_unit_float(0), 0.0F);
  EXPECT_LT(to_unit_float(0xffffffffU), 1.0F);
  EXPECT_GT(to_open_unit_double(0), 0.0);
  EXPECT_LT(to_open_unit_double(0xffffffffU), 1.0);
}

template <typename Fill>
void expect_prefixes_agree(Fill fill) {
  std::vector<float> whole(1003);
  fill(whole.data(), whole.size());
  for (const std::size_t n : {1U, 2U, 3U, 5U, 1002U}) {
    std::vector<float> part(n);
    fill(part.data(), n);
    for (std::size_t i = 0; i < n; ++i)
      ASSERT_EQ(part[i], whole[i]);
  }
}

TEST(Fill, ElementDependsOnItsIndexAlone) {
  const auto key = stream_key(7, "fill");
  expect_prefixes_agree(
      [&](float* out, std::uint64_t n) { fill_uniform(key, -2.0F, 3.0F, out, n); });
  expect_prefixes_agree([&](float* out, std::uint64_t n) { fill_normal(key, 1.0F, 2.0F, out, n); });
}

struct Moments {
  double mean = 0.0;
  double variance = 0.0;
  double skew = 0.0;
};

Moments moments_of(const std::vector<float>& values) {
  Moments m;
  const auto n = static_cast<double>(values.size());
  for (const float v : values)
    m.mean += static_cast<double>(v) / n;
  for (const float v : values) {
    const double d = static_cast<double>(v) - m.mean;
    m.variance += d * d / n;
    m.skew += d * d * d / n;
  }
  return m;
}

TEST(Fill, MomentsAreThoseOfTheDistribution) {
  std::vector<float> values(200000);  // standard error of a mean of deviation 2: 0.0045
  fill_normal(stream_key(3, "moments"), 1.0F, 2.0F, values.data(), values.size());
  Moments m = moments_of(values);
  EXPECT_NEAR(m.mean, 1.0, 0.02);
  EXPECT_NEAR(m.variance, 4.0, 0.06);
  EXPECT_NEAR(m.skew, 0.0, 0.25);
  fill_uniform(stream_key(3, "moments"), -1.0F, 3.0F, values.data(), values.size());
  m = moments_of(values);
  EXPECT_NEAR(m.mean, 1.0, 0.02);
  EXPECT_NEAR(m.variance, 16.0 / 12.0, 0.02);
  for (const float v : values) {
    ASSERT_GE(v, -1.0F);
    ASSERT_LT(v, 3.0F);
  }
}

}  // namespace
}  // namespace lockstep::core
