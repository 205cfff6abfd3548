// The adaptive clip modes against what their authors' own code gives on short sequences, and where
// that code breaks.
#include "runtime/step/clip_rules.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "runtime/step/numeric_decision.h"
#include "runtime/step/tensor_clipping.h"

namespace lockstep::runtime {
namespace {

ClipConfig zclip(double decay, std::int64_t warmup) {
  ClipConfig rules;
  rules.mode = ClipMode::kZClip;
  rules.threshold = 1e9;
  rules.window_decay = decay;
  rules.warmup_steps = warmup;
  return rules;
}

struct Clipped {
  double norm;  // after clipping
  ClipState state;
};

std::vector<Clipped> clip_all(const ClipConfig& rules, const std::vector<double>& norms) {
  std::vector<Clipped> all;
  ClipState state = clip_state_for(rules.mode, {});
  for (const double norm : norms) {
    const double coefficient = common_coefficient(rules, state, norm);
    state = clip_state_after(rules, state, norm);
    all.push_back({coefficient * norm, state});
  }
  return all;
}

TEST(ZClip, FollowsTheAuthorsModule) {
  const auto all = clip_all(zclip(0.9, 4), {1, 2, 3, 2, 2.5, 20, 2, 1.5});
  const std::vector<double> means = {2.0, 2.05, 2.066373631119351, 2.059736268007416,
                                     2.0037626412066745};
  const std::vector<double> variances = {0.5, 0.47025, 0.42539657594786395, 0.3832137605246229,
                                         0.3702700643397131};
  for (std::size_t i = 0; i < means.size(); ++i) {
    EXPECT_NEAR(all[3 + i].state.mean, means[i], 1e-14) << i;
    EXPECT_NEAR(all[3 + i].state.variance, variances[i], 1e-14) << i;
  }
  EXPECT_NEAR(all[5].norm, 2.2137362005067014, 1e-12);
  for (const std::size_t i : {0U, 1U, 2U, 3U, 4U, 6U, 7U})
    EXPECT_EQ(all[i].norm, std::vector<double>({1, 2, 3, 2, 2.5, 20, 2, 1.5})[i]);
}

TEST(ZClip, TheThresholdHoldsInWarmUpAndLater) {
  ClipConfig rules = zclip(0.9, 2);
  rules.threshold = 1.5;
  const auto all = clip_all(rules, {1, 3, 1.6, 100});
  EXPECT_EQ(all[0].norm, 1.0);
  EXPECT_NEAR(all[1].norm, 1.5, 1e-5);
  EXPECT_NEAR(all[2].norm, 1.5, 1e-5);
  EXPECT_NEAR(all[3].norm, 1.5, 1e-5);
  // The statistics hold the norms as they came, and of the spike what the z-score left.
  EXPECT_EQ(all[1].state.mean, 2.0);
  EXPECT_EQ(all[1].state.variance, 1.0);
  EXPECT_GT(all[3].state.mean, 1.9);
  EXPECT_LT(all[3].state.mean, 2.2);
}

// A norm that never moved, and then grows by a ten-thousandth a step: no spike, and no pinning.
TEST(ZClip, ZeroVarianceLeavesRoom) {
  std::vector<double> norms(4, 1.0);
  for (int i = 0; i < 200; ++i)
    norms.push_back(norms.back() * 1.0001);
  const auto all = clip_all(zclip(0.9, 4), norms);
  for (std::size_t i = 0; i < norms.size(); ++i)
    EXPECT_EQ(all[i].norm, norms[i]) << i;
  const auto leap = clip_all(zclip(0.9, 4), {1, 1, 1, 1, 2});
  EXPECT_LT(leap.back().norm, 1.01);
  const auto zero = clip_all(zclip(0.9, 2), {0, 0, 0, 1});
  EXPECT_TRUE(std::isfinite(zero.back().norm));
}

// Authors: rows of two tensors' norms, ratio 1.04, decay 0.9, warm-up 2, threshold 1.
TEST(AdaGc, FollowsTheAuthorsCode) {
  ClipConfig rules;
  rules.mode = ClipMode::kAdaGc;
  rules.window_decay = 0.9;
  rules.warmup_steps = 2;
  const std::vector<std::vector<double>> norms = {{.3, .4}, {3, 4}, {.5, .3}, {.9, .1}};
  const std::vector<std::vector<double>> clipped = {
      {.3, .4}, {.59999988, .79999984}, {.311999376, .3}, {.313247652, .1}};
  const std::vector<std::vector<double>> references = {
      {.3, .4}, {.3, .4}, {.3012, .39}, {.3024048, .361}};
  StepDecision decision;
  decision.next.clip = clip_state_for(rules.mode, {});
  for (std::size_t i = 0; i < norms.size(); ++i) {
    const double norm = std::hypot(norms[i][0], norms[i][1]);
    decision.coefficient = common_coefficient(rules, decision.next.clip, norm);
    decision.next.clip = clip_state_after(rules, decision.next.clip, norm);
    const std::vector<double> coefficients = clip_tensors(rules, norms[i], decision);
    for (std::size_t t = 0; t < 2; ++t) {
      EXPECT_NEAR(coefficients[t] * norms[i][t], clipped[i][t], 1e-8) << i << t;
      EXPECT_NEAR(decision.next.clip_references[t], references[i][t], 1e-12) << i << t;
    }
  }
}

// A tensor whose gradient was zero in warm-up, or is zero for long, is not held at zero.
TEST(AdaGc, AZeroNormSaysNothing) {
  ClipConfig rules;
  rules.mode = ClipMode::kAdaGc;
  rules.window_decay = 0.9;
  rules.warmup_steps = 2;
  double reference = 0.0;
  ClipState state = clip_state_for(rules.mode, {});
  const auto clip = [&](double norm) {
    const double common = common_coefficient(rules, state, norm);
    state = clip_state_after(rules, state, norm);
    const TensorClip found = clip_tensor(rules, state, common, reference, norm);
    reference = found.reference;
    return found.coefficient * norm;
  };
  for (int i = 0; i < 5; ++i)
    EXPECT_EQ(clip(0.0), 0.0);
  EXPECT_EQ(clip(0.2), 0.2);
  for (int i = 0; i < 1000; ++i)
    clip(0.0);
  EXPECT_NEAR(clip(0.2), 0.2, 1e-6);
  EXPECT_NEAR(clip(0.5), 0.208, 1e-6);
}

// Every step that is not applied leaves the state as it was, whatever its norm.
TEST(AdaptiveClipping, SkippedStepsAreNotFed) {
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
  for (const ClipMode mode : {ClipMode::kZClip, ClipMode::kAdaGc}) {
    for (const std::int64_t seen : {0, 1, 2, 50}) {
      DecisionRules rules;
      rules.clip = zclip(0.9, 3);
      rules.clip.mode = mode;
      rules.loss_divisor = 10.0;
      NumericState state;
      state.clip = {mode, seen, 2.0, 0.5};
      StepNumbers totals;
      totals.counted = 10;
      totals.terms = totals.counted;
      totals.sum_of_squares.add(kNaN);
      totals.nonfinite_gradients = 1;
      EXPECT_EQ(decide_numbers(rules, state, {}, totals).next.clip, state.clip);
      totals.nonfinite_losses = 1;
      EXPECT_EQ(decide_numbers(rules, state, {}, totals).next.clip, state.clip);
      totals = {};
      EXPECT_EQ(decide_numbers(rules, state, {}, totals).next.clip, state.clip);
      totals.counted = 10;
      totals.terms = totals.counted;
      totals.sum_of_squares.add(1e6);
      EXPECT_EQ(decide_numbers(rules, state, {true, 1.0, 1.0}, totals).next.clip, state.clip);
      const NumericDecision applied = decide_numbers(rules, state, {}, totals);
      EXPECT_EQ(applied.outcome, StepOutcome::kApplied);
      EXPECT_EQ(applied.next.clip.seen, seen + 1);
    }
  }
}

TEST(AdaptiveClipping, AnotherModesStateStartsAfresh) {
  const ClipState state{ClipMode::kZClip, 300, 2.0, 0.5};
  EXPECT_EQ(clip_state_for(ClipMode::kAdaGc, state), (ClipState{ClipMode::kAdaGc}));
  EXPECT_EQ(clip_state_for(ClipMode::kZClip, state), state);
  ClipConfig global;
  EXPECT_EQ(clip_state_after(global, clip_state_for(global.mode, state), 1.0), ClipState{});
}

}  // namespace
}  // namespace lockstep::runtime
