#include "runtime/step/loss_scaler.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace lockstep::runtime {
namespace {

LossScaleConfig dynamic_rules() {
  LossScaleConfig rules;
  rules.mode = LossScaleMode::kDynamic;
  rules.initial = 1024.0;
  rules.growth_interval = 3;
  return rules;
}

// The scale after each event of `events`: 'o' an overflow, 'a' an applied step.
std::vector<double> scales(const LossScaleConfig& rules, const std::string& events) {
  LossScaleState state = initial_loss_scale(rules);
  std::vector<double> found;
  for (const char event : events) {
    state = event == 'o' ? after_overflow(rules, state) : after_applied(rules, state);
    found.push_back(state.scale);
  }
  return found;
}

TEST(LossScaler, Defaults) {
  LossScaleConfig rules;
  rules.mode = LossScaleMode::kDynamic;
  EXPECT_EQ(initial_loss_scale(rules), (LossScaleState{65536.0, 0, 1}));
  rules.mode = LossScaleMode::kStatic;
  EXPECT_EQ(initial_loss_scale(rules).scale, 65536.0);
  rules.mode = LossScaleMode::kNone;
  EXPECT_EQ(initial_loss_scale(rules).scale, 1.0);
}

TEST(LossScaler, GrowsAfterExactlyTheInterval) {
  EXPECT_EQ(scales(dynamic_rules(), "aaaaaa"),
            (std::vector<double>{1024, 1024, 2048, 2048, 2048, 4096}));
  LossScaleConfig rules;
  rules.mode = LossScaleMode::kDynamic;
  const std::vector<double> found = scales(rules, std::string(2001, 'a'));
  EXPECT_EQ(found[1998], 65536.0);
  EXPECT_EQ(found[1999], 131072.0);
  EXPECT_EQ(found[2000], 131072.0);
}

TEST(LossScaler, AnOverflowStartsTheCountAgain) {
  EXPECT_EQ(scales(dynamic_rules(), "aaoaaa"),
            (std::vector<double>{1024, 1024, 512, 512, 512, 1024}));
}

TEST(LossScaler, NeverBelowTheMinimum) {
  LossScaleConfig rules = dynamic_rules();
  rules.initial = 4.0;
  rules.minimum = 1.5;
  EXPECT_EQ(scales(rules, "ooo"), (std::vector<double>{2, 1.5, 1.5}));
}

TEST(LossScaler, NeverAboveTwoToThe24) {
  LossScaleConfig rules = dynamic_rules();
  rules.initial = 8388608.0;
  rules.growth_interval = 1;
  rules.growth_factor = 1.5;
  EXPECT_EQ(scales(rules, "aaa"), (std::vector<double>{12582912, 16777216, 16777216}));
}

TEST(LossScaler, FactorsAreTheConfigured) {
  LossScaleConfig rules = dynamic_rules();
  rules.growth_factor = 4.0;
  rules.backoff_factor = 0.25;
  EXPECT_EQ(scales(rules, "oaaao"), (std::vector<double>{256, 256, 256, 1024, 256}));
}

// Two tolerated overflows must come in a row: an applied step gives the patience back.
TEST(LossScaler, ConsecutiveHysteresis) {
  LossScaleConfig rules = dynamic_rules();
  rules.growth_interval = 100;
  rules.hysteresis = 2;
  EXPECT_EQ(scales(rules, "oaoaoo"), (std::vector<double>{1024, 1024, 1024, 1024, 1024, 512}));
  // Patience that is spent stays spent until a step is applied.
  EXPECT_EQ(scales(rules, "ooooa"), (std::vector<double>{1024, 512, 256, 128, 128}));
  EXPECT_EQ(scales(rules, "oooaoo"), (std::vector<double>{1024, 512, 256, 256, 256, 128}));
  rules.hysteresis = 3;
  EXPECT_EQ(scales(rules, "ooaooo"), (std::vector<double>{1024, 1024, 1024, 1024, 1024, 512}));
}

// The budget is for the time between two growths: applied steps do not refill it.
TEST(LossScaler, BudgetHysteresis) {
  LossScaleConfig rules = dynamic_rules();
  rules.hysteresis_mode = HysteresisMode::kBudget;
  rules.hysteresis = 2;
  EXPECT_EQ(scales(rules, "oaoao"), (std::vector<double>{1024, 1024, 512, 512, 256}));
  EXPECT_EQ(scales(rules, "oaaaoo"), (std::vector<double>{1024, 1024, 1024, 2048, 2048, 1024}));
  rules.hysteresis = 3;
  EXPECT_EQ(scales(rules, "oaoao"), (std::vector<double>{1024, 1024, 1024, 1024, 512}));
}

TEST(LossScaler, HysteresisOneIsTheSameInBothModes) {
  LossScaleConfig rules = dynamic_rules();
  const std::string events = "oaoooaaaoaaaaaaooa";
  const std::vector<double> consecutive = scales(rules, events);
  rules.hysteresis_mode = HysteresisMode::kBudget;
  EXPECT_EQ(scales(rules, events), consecutive);
  EXPECT_EQ(consecutive[1], 512.0);
}

TEST(LossScaler, StaticAndNoneNeverChange) {
  LossScaleConfig rules = dynamic_rules();
  for (const LossScaleMode mode : {LossScaleMode::kStatic, LossScaleMode::kNone}) {
    rules.mode = mode;
    const LossScaleState first = initial_loss_scale(rules);
    LossScaleState state = first;
    for (int i = 0; i < 20; ++i)
      state = i % 5 == 0 ? after_overflow(rules, state) : after_applied(rules, state);
    EXPECT_EQ(state, first);
    EXPECT_EQ(state.scale, mode == LossScaleMode::kStatic ? 1024.0 : 1.0);
  }
}

}  // namespace
}  // namespace lockstep::runtime
