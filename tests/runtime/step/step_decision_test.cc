#include "runtime/step/step_decision.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

namespace lockstep::runtime {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr std::int64_t kTokensOfRank = 25;

DecisionRules rules_for(int ranks) {
  DecisionRules rules;
  rules.loss_scale.mode = LossScaleMode::kDynamic;
  rules.loss_divisor = static_cast<double>(ranks * kTokensOfRank);
  return rules;
}

// Rank r saw a loss sum of 50 (1 + r) and a scaled shard whose squares add up to 9 (1 + r) scale^2.
std::vector<StepReport> good_reports(int ranks, double scale) {
  std::vector<StepReport> reports(static_cast<std::size_t>(ranks));
  for (int r = 0; r < ranks; ++r) {
    StepReport& report = reports[static_cast<std::size_t>(r)];
    report.view.step = 7;
    report.view.loss_scale = scale;
    report.sum_of_squares.add(9.0 * (1 + r) * scale * scale);
    report.optimised_loss.add(50.0 * (1 + r));
    report.counted = kTokensOfRank;
    report.terms = report.counted;
  }
  return reports;
}

class StepDecisionTest : public ::testing::Test {
 protected:
  void use_ranks(int ranks) {
    rules_ = rules_for(ranks);
    state_ = initial_decision_state(rules_);
    reports_ = good_reports(ranks, state_.loss_scale.scale);
  }
  StepDecision decide_now() const { return decide(rules_, state_, reports_); }
  void overflow_on(std::size_t rank, std::int32_t bucket = 3) {
    reports_[rank].own = {2, 1, bucket, 17};
    reports_[rank].sum_of_squares.add(kInfinity);
  }

  DecisionRules rules_;
  DecisionState state_;
  std::vector<StepReport> reports_;
};

TEST_F(StepDecisionTest, Applied) {
  use_ranks(3);
  const StepDecision decision = decide_now();
  EXPECT_TRUE(decision.applied());
  EXPECT_EQ(decision.stop, StopReason::kNone);
  EXPECT_EQ(decision.counted, 75);
  EXPECT_DOUBLE_EQ(decision.loss, 300.0 / 75.0);
  EXPECT_DOUBLE_EQ(decision.grad_norm, std::sqrt(54.0));
  EXPECT_EQ(decision.unscale, 1.0 / 65536.0);
  EXPECT_DOUBLE_EQ(decision.coefficient, 1.0 / (std::sqrt(54.0) + 1e-6));
  EXPECT_EQ(decision.next.applied_steps, 1);
  EXPECT_EQ(decision.next.loss_scale, (LossScaleState{65536.0, 1, 1}));
  EXPECT_FALSE(decision.checkpoint);
}

// Ignored targets: the mean is over the n counted tokens, and D / n joins factor and norm.
TEST_F(StepDecisionTest, CountedTokensWeightLossFactorAndNorm) {
  use_ranks(2);
  reports_[0].counted = 3;
  reports_[0].terms = reports_[0].counted;
  reports_[1].counted = 7;
  reports_[1].terms = reports_[1].counted;
  const StepDecision decision = decide_now();
  EXPECT_DOUBLE_EQ(decision.loss, 15.0);
  EXPECT_DOUBLE_EQ(decision.unscale, 50.0 / 10.0 / 65536.0);
  EXPECT_DOUBLE_EQ(decision.grad_norm, std::sqrt(27.0) * 5.0);
}

TEST_F(StepDecisionTest, OtherClipModesLeaveTheCoefficientAtOne) {
  use_ranks(2);
  for (const ClipMode mode : {ClipMode::kNone, ClipMode::kValue, ClipMode::kTensorNorm}) {
    rules_.clip.mode = mode;
    EXPECT_EQ(decide_now().coefficient, 1.0);
    EXPECT_DOUBLE_EQ(decide_now().grad_norm, std::sqrt(27.0));
  }
}

TEST_F(StepDecisionTest, OverflowNamesTheLowestRank) {
  use_ranks(4);
  state_.applied_steps = 11;
  overflow_on(3, 5);
  overflow_on(1, 2);
  const StepDecision decision = decide_now();
  EXPECT_EQ(decision.outcome, StepOutcome::kOverflow);
  EXPECT_EQ(decision.overflow_rank, 1);
  EXPECT_EQ(decision.culprit.bucket, 2);
  EXPECT_EQ(decision.culprit.inf, 2);
  EXPECT_EQ(decision.culprit.nan, 1);
  EXPECT_EQ(decision.next.loss_scale, (LossScaleState{32768.0, 0, 0}));
  EXPECT_EQ(decision.next.applied_steps, 11);
  EXPECT_EQ(decision.next.skips_in_a_row, 1);
  EXPECT_EQ(decision.grad_norm, kInfinity);
  EXPECT_EQ(decision.stop, StopReason::kNone);
  EXPECT_DOUBLE_EQ(decision.loss, 500.0 / 100.0);
}

// What only one owner sees after the reduction must still be everybody's overflow.
TEST_F(StepDecisionTest, OnlyTheSumOverflowed) {
  use_ranks(3);
  reports_[2].shard = {4, 0, 1, 8};
  reports_[2].sum_of_squares.add(kInfinity);
  const StepDecision decision = decide_now();
  EXPECT_EQ(decision.outcome, StepOutcome::kOverflow);
  EXPECT_EQ(decision.overflow_rank, -1);
  EXPECT_EQ(decision.culprit.bucket, 1);
  EXPECT_EQ(decision.culprit.parameter, 8);
  EXPECT_EQ(decision.next.loss_scale.scale, 32768.0);
}

// A rank's own inf that cancels, or hides in what nobody owns, counts too.
TEST_F(StepDecisionTest, OwnOverflowWithFiniteSum) {
  use_ranks(2);
  reports_[1].own = {1, 0, 0, 0};
  EXPECT_EQ(decide_now().outcome, StepOutcome::kOverflow);
}

TEST_F(StepDecisionTest, NaNIsNeverMasked) {
  use_ranks(2);
  reports_[0].shard = {0, 1, 0, 0};
  reports_[0].sum_of_squares.add(kNaN);
  const StepDecision decision = decide_now();
  EXPECT_EQ(decision.outcome, StepOutcome::kOverflow);
  EXPECT_TRUE(std::isnan(decision.grad_norm));
}

TEST_F(StepDecisionTest, DivergedBeatsOverflow) {
  use_ranks(3);
  overflow_on(0);
  reports_[2].nonfinite_losses = 1;
  reports_[2].optimised_loss.add(kNaN);
  StepDecision decision = decide_now();
  EXPECT_EQ(decision.outcome, StepOutcome::kDiverged);
  EXPECT_EQ(decision.stop, StopReason::kDiverged);
  EXPECT_EQ(decision.diverged_rank, 2);
  EXPECT_EQ(decision.overflow_rank, -1);
  EXPECT_TRUE(std::isnan(decision.loss));
  EXPECT_EQ(decision.next.loss_scale, state_.loss_scale);
  EXPECT_EQ(decision.next.applied_steps, 0);
  EXPECT_EQ(decision.next.skips_in_a_row, 1);

  rules_.on_divergence = OnDivergence::kSkip;
  decision = decide_now();
  EXPECT_EQ(decision.outcome, StepOutcome::kDiverged);
  EXPECT_EQ(decision.stop, StopReason::kNone);
}

TEST_F(StepDecisionTest, NoTokens) {
  use_ranks(2);
  state_.loss_scale.good = 4;
  for (StepReport& report : reports_) {
    report.counted = 0;
    report.terms = report.counted;
    report.sum_of_squares = {};
    report.optimised_loss = {};
  }
  const StepDecision decision = decide_now();
  EXPECT_EQ(decision.outcome, StepOutcome::kNoTokens);
  EXPECT_FALSE(decision.applied());
  EXPECT_EQ(decision.next.loss_scale, state_.loss_scale);
  EXPECT_EQ(decision.next.applied_steps, 0);
  EXPECT_EQ(decision.next.skips_in_a_row, 1);
}

TEST_F(StepDecisionTest, TokensOnOneRankAreEnough) {
  use_ranks(2);
  reports_[0].counted = 0;
  reports_[0].terms = reports_[0].counted;
  EXPECT_TRUE(decide_now().applied());
}

// The step that makes the scale grow still unscales by the scale it was computed with.
TEST_F(StepDecisionTest, GrowthTakesEffectAfterTheStep) {
  use_ranks(2);
  state_.loss_scale.good = rules_.loss_scale.growth_interval - 1;
  const StepDecision decision = decide_now();
  EXPECT_EQ(decision.next.loss_scale.scale, 131072.0);
  EXPECT_EQ(decision.unscale, 1.0 / 65536.0);
  EXPECT_DOUBLE_EQ(decision.grad_norm, std::sqrt(27.0));
}

// Steps until the decision stops the run, overflowing all the way.
std::int64_t overflows_until_stop(const DecisionRules& rules, StopReason expected) {
  DecisionState state = initial_decision_state(rules);
  for (std::int64_t step = 1; step <= 2000; ++step) {
    std::vector<StepReport> reports = good_reports(2, state.loss_scale.scale);
    reports[1].own = {1, 0, 0, 0};
    const StepDecision decision = decide(rules, state, reports);
    if (decision.stop != StopReason::kNone) {
      EXPECT_EQ(decision.stop, expected);
      return step;
    }
    state = decision.next;
  }
  return -1;
}

// 65536 reaches the minimum 1 after 16 halvings; then 8 more in steps that ran at it.
TEST_F(StepDecisionTest, TheTwentyFourthOverflowStopsWithDefaults) {
  EXPECT_EQ(overflows_until_stop(rules_for(2), StopReason::kScaleExhausted), 24);
}

TEST_F(StepDecisionTest, TheFiftiethSkipStopsWhateverThePatience) {
  DecisionRules rules = rules_for(2);
  rules.loss_scale.overflow_patience = 1000;
  EXPECT_EQ(overflows_until_stop(rules, StopReason::kTooManySkips), 50);
  rules.loss_scale.max_consecutive_skips = 7;
  EXPECT_EQ(overflows_until_stop(rules, StopReason::kTooManySkips), 7);
  // Patience is of dynamic scaling only, the cap of every mode.
  for (const LossScaleMode mode : {LossScaleMode::kStatic, LossScaleMode::kNone}) {
    rules = rules_for(2);
    rules.loss_scale.mode = mode;
    EXPECT_EQ(overflows_until_stop(rules, StopReason::kTooManySkips), 50);
  }
}

TEST_F(StepDecisionTest, HysteresisDelaysTheMinimumAndSoTheStop) {
  DecisionRules rules = rules_for(2);
  rules.loss_scale.hysteresis = 3;
  EXPECT_EQ(overflows_until_stop(rules, StopReason::kScaleExhausted), 26);
}

TEST_F(StepDecisionTest, AnAppliedStepGivesAllPatienceBack) {
  use_ranks(2);
  state_.skips_in_a_row = 49;
  state_.overflows_at_minimum_in_a_row = 7;
  state_.loss_scale.scale = 1.0;
  const StepDecision decision = decide_now();
  EXPECT_TRUE(decision.applied());
  EXPECT_EQ(decision.next.skips_in_a_row, 0);
  EXPECT_EQ(decision.next.overflows_at_minimum_in_a_row, 0);
}

// Skips of different causes count together; overflows at the minimum must be in a row.
TEST_F(StepDecisionTest, SkipsOfAnyCauseAddUp) {
  use_ranks(2);
  rules_.loss_scale.max_consecutive_skips = 3;
  state_.skips_in_a_row = 2;
  state_.loss_scale.scale = 1.0;
  state_.overflows_at_minimum_in_a_row = 2;
  for (StepReport& report : reports_) {
    report.counted = 0;
    report.terms = report.counted;
  }
  const StepDecision decision = decide_now();
  EXPECT_EQ(decision.stop, StopReason::kTooManySkips);
  EXPECT_EQ(decision.next.overflows_at_minimum_in_a_row, 0);
}

TEST_F(StepDecisionTest, OneRequestIsEverybodys) {
  use_ranks(3);
  reports_[2].requests = kRequestCheckpoint;
  EXPECT_TRUE(decide_now().checkpoint);
  EXPECT_EQ(decide_now().stop, StopReason::kNone);
  reports_[0].requests = kRequestStop;
  EXPECT_TRUE(decide_now().checkpoint);
  EXPECT_EQ(decide_now().stop, StopReason::kRequested);
}

struct FieldCase {
  const char* name;
  std::function<void(RunView&)> change;
};

std::vector<FieldCase> field_cases() {
  return {
      {"step", [](RunView& v) { v.step += 1; }},
      {"data_position", [](RunView& v) { v.data_position += 8; }},
      {"applied_steps", [](RunView& v) { v.applied_steps += 1; }},
      {"config_fingerprint", [](RunView& v) { v.config_fingerprint ^= 1; }},
      {"loss_scale", [](RunView& v) { v.loss_scale *= 2; }},
      {"learning_rate", [](RunView& v) { v.learning_rate = std::nextafter(v.learning_rate, 1); }},
      {"chain_head", [](RunView& v) { v.chain_head ^= 1ULL << 63; }},
      {"parameter_digest", [](RunView& v) { v.parameter_digest ^= 4; }}};
}

TEST_F(StepDecisionTest, DesyncInEveryFieldNamesTheMinority) {
  for (const FieldCase& field : field_cases()) {
    use_ranks(3);
    field.change(reports_[1].view);
    const StepDecision decision = decide_now();
    EXPECT_EQ(decision.outcome, StepOutcome::kDesync) << field.name;
    EXPECT_EQ(decision.stop, StopReason::kDesync) << field.name;
    EXPECT_EQ(decision.desync.field, field.name);
    EXPECT_THAT(decision.desync.ranks, ElementsAre(1)) << field.name;
    EXPECT_THAT(decision.desync.detail, HasSubstr("rank 1 has ")) << field.name;
    EXPECT_THAT(decision.desync.detail, HasSubstr("the other 2 have ")) << field.name;
    EXPECT_EQ(decision.next, state_) << field.name;
  }
}

TEST_F(StepDecisionTest, DesyncWithoutMajorityNamesAll) {
  for (const FieldCase& field : field_cases()) {
    use_ranks(4);
    field.change(reports_[0].view);
    field.change(reports_[3].view);
    EXPECT_THAT(decide_now().desync.ranks, ElementsAre(0, 1, 2, 3)) << field.name;
    use_ranks(2);
    field.change(reports_[1].view);
    EXPECT_THAT(decide_now().desync.ranks, ElementsAre(0, 1)) << field.name;
  }
}

TEST_F(StepDecisionTest, TheMostTellingFieldIsNamed) {
  use_ranks(3);
  reports_[2].view.chain_head = 9;
  reports_[2].view.loss_scale = 9;
  EXPECT_EQ(decide_now().desync.field, "loss_scale");
}

TEST_F(StepDecisionTest, DesyncBeatsEverythingElse) {
  use_ranks(3);
  overflow_on(0);
  reports_[1].nonfinite_losses = 1;
  reports_[2].view.step = 8;
  EXPECT_EQ(decide_now().outcome, StepOutcome::kDesync);
}

TEST_F(StepDecisionTest, AContradictedRankIsNamedThoughDigestsAgree) {
  use_ranks(2);
  reports_[1].contradicted_bucket = 0;
  const StepDecision decision = decide_now();
  EXPECT_EQ(decision.outcome, StepOutcome::kDesync);
  EXPECT_EQ(decision.desync.field, kParameterField);
  EXPECT_THAT(decision.desync.ranks, ElementsAre(1));
}

// All ranks agree on a NaN as on anything else: views are compared bit by bit.
TEST_F(StepDecisionTest, EqualNaNsAgree) {
  use_ranks(2);
  for (StepReport& report : reports_)
    report.view.learning_rate = kNaN;
  EXPECT_TRUE(decide_now().applied());
}

TEST_F(StepDecisionTest, OneRank) {
  use_ranks(1);
  EXPECT_TRUE(decide_now().applied());
  EXPECT_DOUBLE_EQ(decide_now().grad_norm, 3.0);
}

// The decision does not depend on how the sums are dealt out to ranks.
TEST_F(StepDecisionTest, SameBitsHoweverTheSumsAreDealtOut) {
  const std::vector<double> squares = {1e300, 3.3, 1e-300, 7e5, 0.1, 2e299, 1e16, 0.7};
  std::vector<StepDecision> decisions;
  for (const int ranks : {1, 2, 4, 8}) {
    DecisionRules rules = rules_for(8);
    std::vector<StepReport> reports(static_cast<std::size_t>(ranks));
    for (std::size_t i = 0; i < squares.size(); ++i) {
      StepReport& report = reports[i % static_cast<std::size_t>(ranks)];
      report.sum_of_squares.add(squares[i]);
      report.optimised_loss.add(-squares[squares.size() - 1 - i]);
      report.counted += kTokensOfRank;
      report.terms += kTokensOfRank;
    }
    decisions.push_back(decide(rules, initial_decision_state(rules), reports));
  }
  for (const StepDecision& decision : decisions) {
    EXPECT_EQ(decision.grad_norm, decisions.front().grad_norm);
    EXPECT_EQ(decision.loss, decisions.front().loss);
    EXPECT_EQ(decision.coefficient, decisions.front().coefficient);
  }
}

TEST(ClipCoefficient, AsPyTorch) {
  EXPECT_EQ(clip_coefficient(0.0, 1.0), 1.0);
  EXPECT_EQ(clip_coefficient(0.5, 1.0), 1.0);
  EXPECT_DOUBLE_EQ(clip_coefficient(1.0, 1.0), 1.0 / 1.000001);
  EXPECT_DOUBLE_EQ(clip_coefficient(4.0, 0.5), 0.5 / 4.000001);
  EXPECT_EQ(clip_coefficient(1.0 - 1e-6, 1.0), 1.0);
}

}  // namespace
}  // namespace lockstep::runtime
