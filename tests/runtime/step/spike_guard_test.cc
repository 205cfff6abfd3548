#include "runtime/step/spike_guard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/random.h"
#include "tests/support/recorded.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::runtime {
namespace {

using ::testing::HasSubstr;

double sorted_median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2.0;
}

std::vector<double> noise(std::size_t count, double mean, double spread, std::uint64_t seed) {
  std::vector<float> normal(count);
  core::fill_normal(core::stream_key(seed, "noise"), 0.0F, 1.0F, normal.data(), count);
  std::vector<double> values;
  for (const float x : normal)
    values.push_back(mean + spread * static_cast<double>(x));
  return values;
}

SpikeGuardState healthy(const std::vector<double>& losses, const std::vector<double>& norms) {
  SpikeGuardState state;
  for (std::size_t i = 0; i < losses.size(); ++i)
    state = after_healthy_step(10.0, std::move(state), losses[i], norms[i]);
  return state;
}

SpikeGuardState steady(std::size_t count, double loss, double norm) {
  return healthy(std::vector<double>(count, loss), std::vector<double>(count, norm));
}

TEST(Median, AgainstSorting) {
  for (std::size_t count = 1; count <= 70; ++count) {
    const std::vector<double> values = noise(count, 1.0, 3.0, count);
    EXPECT_DOUBLE_EQ(median_of(values), sorted_median(values)) << count;
  }
  EXPECT_EQ(median_of({2.0, 2.0, 1.0, 2.0}), 2.0);
}

// Every number of a verdict, recomputed from the raw values of the last 64 steps.
TEST(SpikeGuard, LimitIsMedianAndMadOfTheWindow) {
  const std::vector<double> losses = noise(100, 3.0, 0.2, 1);
  const std::vector<double> norms = noise(100, 1.0, 0.01, 2);
  const SpikeGuardState state = healthy(losses, norms);
  ASSERT_EQ(state.losses.size(), kSpikeWindow);
  const std::vector<double> last(losses.end() - 64, losses.end());
  const double median = sorted_median(last);
  std::vector<double> distances;
  for (const double x : last)
    distances.push_back(std::abs(x - median));
  const double mad = sorted_median(distances);
  ASSERT_GT(1.4826 * mad, 0.1);  // the floors do not count
  for (const double factor : {1.0, 4.0, 10.0}) {
    const double limit = median + factor * 1.4826 * mad;
    const SpikeVerdict verdict = judge_step(factor, state, limit * 1.0001, 1.0);
    EXPECT_EQ(verdict.quantity, SpikeQuantity::kLoss);
    EXPECT_DOUBLE_EQ(verdict.median, median);
    EXPECT_DOUBLE_EQ(verdict.mad, mad);
    EXPECT_DOUBLE_EQ(verdict.limit, limit);
    EXPECT_EQ(verdict.healthy_steps, 64);
    EXPECT_FALSE(judge_step(factor, state, limit * 0.9999, 1.0).found());
  }
}

TEST(SpikeGuard, NothingIsASpikeBeforeThereAreEnoughSteps) {
  EXPECT_FALSE(judge_step(10.0, steady(kSpikeLeastSteps - 1, 3.0, 1.0), 1e9, 1e9).found());
  EXPECT_TRUE(judge_step(10.0, steady(kSpikeLeastSteps, 3.0, 1.0), 1e9, 1.0).found());
}

TEST(SpikeGuard, OffNeverFiresAndKeepsNothing) {
  const SpikeGuardState state = steady(30, 3.0, 1.0);
  EXPECT_FALSE(judge_step(0.0, state, 1e9, 1e9).found());
  EXPECT_EQ(after_healthy_step(0.0, state, 3.0, 1.0), SpikeGuardState{});
}

// A window without any spread has a MAD of 0: the floors decide.
TEST(SpikeGuard, WithoutSpreadTheFloorsHold) {
  const SpikeGuardState state = steady(40, 5.0, 2.0);
  EXPECT_FALSE(judge_step(10.0, state, 5.0001, 2.0001).found());
  EXPECT_FALSE(judge_step(10.0, state, 5.99, 2.0).found());  // 10 x 0.02 x 5
  EXPECT_EQ(judge_step(10.0, state, 6.01, 2.0).quantity, SpikeQuantity::kLoss);
  EXPECT_FALSE(judge_step(10.0, state, 5.0, 21.9).found());  // 10 x 2
  EXPECT_EQ(judge_step(10.0, state, 5.0, 22.1).quantity, SpikeQuantity::kNorm);

  const SpikeGuardState small = steady(40, 0.01, 1e-5);
  EXPECT_FALSE(judge_step(10.0, small, 0.50, 0.99).found());  // 10 x 0.05, 10 x 0.1
  EXPECT_EQ(judge_step(10.0, small, 0.52, 0.5).quantity, SpikeQuantity::kLoss);
  EXPECT_EQ(judge_step(10.0, small, 0.01, 1.1).quantity, SpikeQuantity::kNorm);
}

TEST(SpikeGuard, FallingIsNoSpike) {
  const SpikeGuardState state = steady(40, 5.0, 2.0);
  EXPECT_FALSE(judge_step(1.0, state, 0.0, 0.0).found());
  EXPECT_FALSE(judge_step(1.0, state, -100.0, 0.0).found());
}

// The loss of a run that learns falls through the window; its noise must not look like a spike.
TEST(SpikeGuard, ALearningRunIsHealthy) {
  const std::vector<double> loss_noise = noise(1000, 0.0, 0.08, 5);
  const std::vector<double> norm_noise = noise(1000, 0.0, 0.4, 6);
  SpikeGuardState state;
  for (std::size_t i = 0; i < 1000; ++i) {
    const double loss = 2.0 + 8.0 * std::exp(-static_cast<double>(i) / 60.0) + loss_noise[i];
    const double norm = 0.5 * std::exp(norm_noise[i]);
    const SpikeVerdict verdict = judge_step(10.0, state, loss, norm);
    ASSERT_FALSE(verdict.found()) << i << ": " << verdict.describe();
    state = after_healthy_step(10.0, std::move(state), loss, norm);
  }
}

TEST(SpikeGuard, SaysWhatLeapt) {
  const SpikeVerdict verdict = judge_step(10.0, steady(40, 5.0, 2.0), 5.0, 30.0);
  EXPECT_EQ(verdict.describe(), "grad_norm 30 is above 22 (median 2, MAD 0 of 40 healthy steps)");
  EXPECT_THAT(judge_step(10.0, steady(40, 5.0, 2.0), 50.0, 30.0).describe(), HasSubstr("loss 50"));
}

// W7: recorded from PyTorch runs without a guard (tests/reference/record_spike_curves.py). Whatever leaps is
// found at its first step and nothing before it; what stays is a level after kLevelSteps steps.
TEST(SpikeGuard, FindsWhatLeaptInRecordedRuns) {
  const std::string file = lockstep::testing::recorded_file("spikes.json");
  const auto curves = nlohmann::json::parse(lockstep::testing::read_file(file));
  ASSERT_EQ(curves.size(), 4U);
  for (const auto& curve : curves) {
    const std::string name = curve["name"];
    const int leaps_at = curve["leaps_at"];
    SpikeGuardState state;
    int step = 0;
    for (const auto& each : curve["steps"]) {
      ++step;
      const double loss = each[0];
      const double norm = each[1];
      const bool leaps = judge_step(10.0, state, loss, norm).found();
      if (step <= leaps_at) {
        EXPECT_EQ(leaps, step == leaps_at) << name << " " << step;
      }
      if (!leaps) {
        note_healthy_step(10.0, state, loss, norm);
      } else if (completes_level(state)) {
        EXPECT_TRUE(curve["stays"]) << name << " " << step;
        note_level(state, loss, norm);
        EXPECT_EQ(state.losses.size(), kLevelSteps);
      } else {
        note_spike(state, loss, norm);
      }
    }
    EXPECT_GT(step, leaps_at + 3) << name;
  }
}

}  // namespace
}  // namespace lockstep::runtime
