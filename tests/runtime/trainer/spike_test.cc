#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "runtime/step/rollback.h"
#include "runtime/step/spike_guard.h"
#include "tests/support/training_world.h"

namespace lockstep::testing {
namespace {

using runtime::Rollbacks;
using runtime::StepOutcome;
using ::testing::HasSubstr;

constexpr int kSteps = 70;
constexpr int kPoisoned = 57;  // the step whose data are garbage
constexpr int kTokensPerStep = 6 * 8;

// A pattern that is soon learnt, dealt in order; the tokens of step kPoisoned follow none.
class SpikeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::vector<std::uint16_t> tokens((kSteps + 1) * kTokensPerStep);
    for (std::size_t i = 0; i < tokens.size(); ++i)
      tokens[i] = static_cast<std::uint16_t>(i % 4);
    for (std::size_t i = 0; i < kTokensPerStep; ++i)
      tokens[(kPoisoned - 1) * kTokensPerStep + i] =
          static_cast<std::uint16_t>(8 + (i * i * 7 + i / 3) % 24);
    world_.directory().write("tokens.bin", {reinterpret_cast<const char*>(tokens.data()),
                                            tokens.size() * sizeof(std::uint16_t)});
  }

  static TrainingRun run(const char* policy, int ranks = 2) {
    TrainingRun run;
    run.ranks = ranks;
    run.overrides = {fmt::format("train.steps={}", kSteps),
                     "batch.global=6",
                     "data.order=sequential",
                     "optimizer.learning_rate=5e-3",
                     "checkpoint.every_steps=10",
                     "run.reproducible=ranks",
                     fmt::format("health.on_divergence={}", policy)};
    run.body = [](Rank& rank) { rank.trainer.run(); };
    return run;
  }

  static nlohmann::ordered_json health_line(const TrainingResult& result, const char* kind) {
    nlohmann::ordered_json found;
    for (const auto& line : result.lines) {
      if (line["event"] != "health" || line["kind"] != kind) continue;
      EXPECT_TRUE(found.is_null()) << "told twice";
      found = line;
    }
    return found;
  }

  static std::vector<int> skipped(const TrainingResult& result) {
    std::vector<int> steps;
    for (const auto& line : result.lines) {
      if (line["event"] == "step" && line["applied"] == false) steps.push_back(line["step"]);
    }
    return steps;
  }

  TrainingWorld world_{tiny_config()};
};

TEST_F(SpikeTest, TheDefaultStopsBeforeTheUpdate) {
  const TrainingResult result = world_.train(run("stop"));
  ASSERT_EQ(result.error, core::ErrorKind::kDiverged);
  EXPECT_THAT(result.message, HasSubstr(fmt::format("step {}: spike: loss ", kPoisoned)));
  EXPECT_THAT(result.message, HasSubstr("most of the gradient is in "));
  EXPECT_EQ(result.step_lines().size(), static_cast<std::size_t>(kPoisoned));
  EXPECT_THAT(result.message, HasSubstr("health.spike_factor"));
  EXPECT_EQ(skipped(result), std::vector<int>{kPoisoned});
}

TEST_F(SpikeTest, SkippedItLeavesNoTraceInWeightsAndWindow) {
  TrainingRun skipping = run("skip");
  skipping.body = [](Rank& rank) {
    for (int step = 1; step <= kSteps; ++step) {
      const StateHashes before = step == kPoisoned ? rank.hashes() : StateHashes{};
      const runtime::SpikeGuardState guard = rank.trainer.progress().decision.spike_guard;
      const runtime::StepDecision decision = rank.trainer.step();
      ASSERT_EQ(decision.outcome, step == kPoisoned ? StepOutcome::kSpike : StepOutcome::kApplied)
          << step << ": " << decision.spike.describe();
      if (step != kPoisoned) continue;
      EXPECT_EQ(rank.hashes(), before);
      EXPECT_EQ(rank.trainer.progress().decision.spike_guard.losses, guard.losses);
      EXPECT_EQ(rank.trainer.progress().decision.spike_guard.norms, guard.norms);
    }
  };
  const TrainingResult result = world_.train(skipping);
  ASSERT_FALSE(result.error) << result.message;
  const auto ledger = runtime::read_ledger(result.output + "/ledger.jsonl");
  EXPECT_THAT(ledger.at(kPoisoned - 1).fields,
              ::testing::Contains(std::pair<std::string, std::string>("outcome", "\"spike\"")));
}

// What the line says can be recomputed from the step lines before it.
TEST_F(SpikeTest, TheHealthLineNamesItsNumbers) {
  const TrainingResult result = world_.train(run("skip"));
  ASSERT_FALSE(result.error) << result.message;
  EXPECT_EQ(skipped(result), std::vector<int>{kPoisoned});
  std::vector<double> losses;
  double loss = 0.0;
  for (const auto& line : result.lines) {
    if (line["event"] != "step" || line["step"] > kPoisoned) continue;
    EXPECT_EQ(line["overflow"], false);
    EXPECT_EQ(line["diverged"], false);
    loss = line["loss"];
    if (line["step"] < kPoisoned) losses.push_back(loss);
  }
  const double median = runtime::median_of(losses);
  for (double& each : losses)
    each = std::abs(each - median);
  const double mad = runtime::median_of(losses);
  const auto line = health_line(result, "spike");
  EXPECT_EQ(line["step"], kPoisoned);
  EXPECT_EQ(line["quantity"], "loss");
  EXPECT_EQ(line["value"], loss);
  EXPECT_EQ(line["median"], median);
  EXPECT_EQ(line["mad"], mad);
  EXPECT_EQ(line["factor"], 10);
  EXPECT_EQ(line["healthy_steps"], losses.size());
  EXPECT_EQ(line["limit"], median + 10 * std::max({1.4826 * mad, 0.02 * median, 0.05}));
  EXPECT_GT(line["largest_norm"], 0.0);
}

TEST_F(SpikeTest, FactorZeroAppliesIt) {
  TrainingRun off = run("stop");
  off.overrides.push_back("health.spike_factor=0");
  const TrainingResult result = world_.train(off);
  ASSERT_FALSE(result.error) << result.message;
  EXPECT_EQ(skipped(result), std::vector<int>{});
}

// The window is part of the checkpoint: whoever resumes, at any number of ranks, judges alike.
TEST_F(SpikeTest, TheWindowSurvivesAResumeAtAnyNumberOfRanks) {
  const TrainingResult whole = world_.train(run("skip"));
  for (const int ranks : {1, 2, 3}) {
    TrainingRun resumed = run("skip", ranks);
    resumed.resume = whole.output + "/checkpoints/step-00000050";
    const TrainingResult result = world_.train(resumed);
    ASSERT_FALSE(result.error) << result.message;
    EXPECT_EQ(result.state, whole.state);
    EXPECT_EQ(skipped(result), std::vector<int>{kPoisoned});
    EXPECT_EQ(health_line(result, "spike"), health_line(whole, "spike"));
  }
}

TEST_F(SpikeTest, RolledBackItEqualsASkip) {
  const TrainingResult skipping = world_.train(run("skip"));
  std::vector<TrainingResult> results;
  for (const int ranks : {1, 2, 3}) {
    results.push_back(world_.train(run("rollback", ranks)));
    const TrainingResult& result = results.back();
    ASSERT_FALSE(result.error) << result.message;
    EXPECT_EQ(runtime::read_rollbacks(result.output), (Rollbacks{{40, kPoisoned, kPoisoned}}));
    EXPECT_EQ(result.state, skipping.state);
    EXPECT_EQ(result.ledger, results.front().ledger);
    const auto line = health_line(result, "rollback");
    EXPECT_EQ(line["outcome"], "spike");
    EXPECT_THAT(line["cause"].get<std::string>(), HasSubstr("spike: loss "));
    EXPECT_TRUE(health_line(result, "spike").is_null());  // cut off with its step
  }
}

// Without it a norm that nothing could have must be told, once, and change nothing.
TEST_F(SpikeTest, AVanishingNormIsToldOnce) {
  TrainingRun low = run("skip");
  low.overrides.push_back("health.vanishing_norm=1e6");
  const TrainingResult result = world_.train(low);
  ASSERT_FALSE(result.error) << result.message;
  EXPECT_EQ(health_line(result, "vanishing_norm")["step"], 1);
  EXPECT_EQ(result.state, world_.train(run("skip")).state);
}

}  // namespace
}  // namespace lockstep::testing
