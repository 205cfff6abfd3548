#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "runtime/step/step_decision.h"

namespace lockstep::runtime {
namespace {

// One rank with 10 tokens; loss and norm are what the test says.
class SpikeDecisionTest : public ::testing::Test {
 protected:
  SpikeDecisionTest() {
    rules_.loss_divisor = 10.0;
    rules_.loss_scale.mode = LossScaleMode::kDynamic;
    rules_.loss_scale.initial = 8.0;
    rules_.spike_factor = 10.0;
    state_ = initial_decision_state(rules_);
  }

  StepDecision decide_on(double loss, double norm) const {
    StepReport report;
    report.view.step = step_;
    report.counted = 10;
    report.terms = report.counted;
    report.optimised_loss.add(loss * 10.0);
    const double scaled = norm * state_.loss_scale.scale;
    report.sum_of_squares.add(scaled * scaled);
    report.requests = requests_;
    return decide(rules_, state_, std::vector<StepReport>{report});
  }
  StepDecision decide_on_nan() const {
    StepReport report;
    report.view.step = step_;
    report.counted = 10;
    report.terms = report.counted;
    report.nonfinite_losses = 1;
    report.optimised_loss.add(std::numeric_limits<double>::quiet_NaN());
    return decide(rules_, state_, std::vector<StepReport>{report});
  }
  void train(int steps, double loss = 3.0, double norm = 1.0) {
    for (int i = 0; i < steps; ++i, ++step_)
      state_ = decide_on(loss, norm).next;
  }

  DecisionRules rules_;
  DecisionState state_;
  std::int64_t step_ = 1;
  std::uint32_t requests_ = kRequestNone;
};

TEST_F(SpikeDecisionTest, ASpikeIsNotAppliedAndOnlyCounts) {
  train(20);
  rules_.on_divergence = OnDivergence::kSkip;
  for (const auto& [loss, norm] : {std::pair{9.0, 1.0}, {3.0, 90.0}}) {
    const StepDecision decision = decide_on(loss, norm);
    EXPECT_EQ(decision.outcome, StepOutcome::kSpike);
    EXPECT_EQ(decision.spike.quantity, loss > 3.0 ? SpikeQuantity::kLoss : SpikeQuantity::kNorm);
    EXPECT_FALSE(decision.applied());
    EXPECT_EQ(decision.stop, StopReason::kNone);
    EXPECT_DOUBLE_EQ(decision.loss, loss);  // told as they are
    EXPECT_DOUBLE_EQ(decision.grad_norm, norm);
    DecisionState expected = state_;
    expected.skips_in_a_row = 1;
    expected.spike_guard.spike_losses = {loss};
    expected.spike_guard.spike_norms = {norm};
    EXPECT_EQ(decision.next, expected);
  }
}

// When a spike is over it is known for one, and no level.
TEST_F(SpikeDecisionTest, WhatFollowsIsChosen) {
  train(20);
  const DecisionState healthy = state_;
  for (const auto& [policy, of_spike, of_nan] :
       {std::tuple{OnDivergence::kStop, StopReason::kSpike, StopReason::kDiverged},
        {OnDivergence::kSkip, StopReason::kNone, StopReason::kNone},
        {OnDivergence::kRollback, StopReason::kRollback, StopReason::kRollback}}) {
    rules_.on_divergence = policy;
    for (const int spikes : {1, 2, 3}) {
      state_ = healthy;
      for (int i = 0; i < spikes; ++i) {
        const StepDecision spike = decide_on(9.0, 1.0);
        EXPECT_EQ(spike.outcome, StepOutcome::kSpike);
        EXPECT_EQ(spike.stop, StopReason::kNone);
        state_ = spike.next;
      }
      const StepDecision over = decide_on(3.1, 1.1);
      EXPECT_TRUE(over.ends_spike());
      EXPECT_EQ(over.spikes_before, spikes);
      EXPECT_EQ(over.stop, of_spike);
      EXPECT_EQ(over.next.spike_guard.spikes(), 0U);
    }
    state_ = healthy;
    EXPECT_EQ(decide_on_nan().stop, of_nan);
    EXPECT_EQ(decide_on(3.1, 1.1).stop, StopReason::kNone);
  }
}

// W7: what stays is a level, and the window follows it.
TEST_F(SpikeDecisionTest, ALevelThatStaysIsNoSpike) {
  for (const OnDivergence policy :
       {OnDivergence::kStop, OnDivergence::kSkip, OnDivergence::kRollback}) {
    rules_.on_divergence = policy;
    state_ = initial_decision_state(rules_);
    train(20);
    for (const double loss : {9.0, 8.0, 7.0}) {
      const StepDecision decision = decide_on(loss, 2.0);
      EXPECT_EQ(decision.outcome, StepOutcome::kSpike);
      EXPECT_EQ(decision.stop, StopReason::kNone);
      state_ = decision.next;
    }
    const StepDecision level = decide_on(6.0, 2.0);
    EXPECT_TRUE(level.applied());
    EXPECT_TRUE(level.level);
    EXPECT_FALSE(level.ends_spike());
    EXPECT_EQ(level.stop, StopReason::kNone);
    EXPECT_EQ(level.next.skips_in_a_row, 0);
    SpikeGuardState expected;
    expected.losses = {9.0, 8.0, 7.0, 6.0};
    expected.norms = {2.0, 2.0, 2.0, 2.0};
    EXPECT_EQ(level.next.spike_guard, expected);
    state_ = level.next;
    train(20, 5.0, 2.0);
    EXPECT_EQ(decide_on(12.0, 2.0).outcome, StepOutcome::kSpike);  // of the new level
  }
}

// Behind a spike half the leap is one: a level near the limit is not taken for the end of a spike.
TEST_F(SpikeDecisionTest, ALevelNearTheLimitIsOne) {
  train(20);  // the limit is 3.6
  for (const double loss : {3.7, 3.5, 3.65}) {
    const StepDecision decision = decide_on(loss, 1.0);
    EXPECT_EQ(decision.outcome, StepOutcome::kSpike) << loss;
    state_ = decision.next;
  }
  EXPECT_TRUE(decide_on(3.4, 1.0).level);
  EXPECT_TRUE(decide_on(3.2, 1.0).ends_spike());
}

// The request is still there when the run has gone back.
TEST_F(SpikeDecisionTest, ARequestToStopWaitsForTheRollback) {
  train(20);
  rules_.on_divergence = OnDivergence::kRollback;
  requests_ = kRequestStop;
  EXPECT_EQ(decide_on_nan().stop, StopReason::kRollback);
  EXPECT_EQ(decide_on(3.0, 1.0).stop, StopReason::kRequested);
  state_ = decide_on(9.0, 1.0).next;
  EXPECT_EQ(decide_on(3.0, 1.0).stop, StopReason::kRollback);
}

TEST_F(SpikeDecisionTest, TooManySkipsEndTheRunWhateverTheirCause) {
  train(20);
  rules_.loss_scale.max_consecutive_skips = 3;
  state_.skips_in_a_row = 2;
  for (const OnDivergence policy : {OnDivergence::kSkip, OnDivergence::kRollback}) {
    rules_.on_divergence = policy;
    EXPECT_EQ(decide_on(9.0, 1.0).stop, StopReason::kTooManySkips);
    EXPECT_EQ(decide_on_nan().stop, StopReason::kTooManySkips);
  }
}

// However many spikes come, none of them raises the limit unless they stay: only applied steps enter
// the window.
TEST_F(SpikeDecisionTest, OnlyAppliedStepsEnterTheWindow) {
  train(20);
  rules_.on_divergence = OnDivergence::kSkip;
  const SpikeGuardState before = state_.spike_guard;
  ASSERT_EQ(before.losses.size(), 20U);
  for (int i = 0; i < 3; ++i) {
    state_ = decide_on(9.0, 90.0).next;
    state_ = decide_on_nan().next;
  }
  EXPECT_EQ(state_.spike_guard.losses, before.losses);
  EXPECT_EQ(state_.spike_guard.norms, before.norms);
  state_ = decide_on(2.5, 0.5).next;
  EXPECT_EQ(state_.spike_guard.losses.back(), 2.5);
  EXPECT_DOUBLE_EQ(state_.spike_guard.norms.back(), 0.5);
}

TEST_F(SpikeDecisionTest, FactorZeroIsOff) {
  rules_.spike_factor = 0.0;
  train(40);
  EXPECT_EQ(state_.spike_guard, SpikeGuardState{});
  EXPECT_TRUE(decide_on(1e6, 1e6).applied());
}

TEST_F(SpikeDecisionTest, ALeftOutStepIsNeitherComputedNorApplied) {
  train(20);
  state_.rollbacks = {{10, 20, 20}, {10, 21, 23}};
  step_ = 21;
  StepReport report;  // of a rank that computed nothing
  report.view.step = step_;
  const StepDecision decision = decide(rules_, state_, std::vector<StepReport>{report});
  EXPECT_EQ(decision.outcome, StepOutcome::kLeftOut);
  EXPECT_EQ(decision.counted, 0);
  EXPECT_TRUE(std::isnan(decision.loss));
  EXPECT_TRUE(std::isnan(decision.grad_norm));
  EXPECT_EQ(decision.stop, StopReason::kNone);
  DecisionState expected = state_;
  expected.skips_in_a_row = 1;
  EXPECT_EQ(decision.next, expected);
  step_ = 24;
  EXPECT_TRUE(decide_on(3.0, 1.0).applied());
}

TEST_F(SpikeDecisionTest, AVanishingNormIsToldOnceAStretch) {
  rules_.vanishing_norm = 1e-3;
  std::vector<int> told;
  const std::vector<double> norms = {1.0, 1e-4, 1e-5, 0.0, 1e-3, 5e-4, 1.0};
  for (const double norm : norms) {
    const StepDecision decision = decide_on(3.0, norm);
    EXPECT_TRUE(decision.applied());
    told.push_back(decision.vanished ? 1 : 0);
    state_ = decision.next;
  }
  EXPECT_EQ(told, (std::vector<int>{0, 1, 0, 0, 0, 1, 0}));
}

}  // namespace
}  // namespace lockstep::runtime
