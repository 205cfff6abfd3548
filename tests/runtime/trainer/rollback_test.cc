#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "runtime/checkpoint/checkpoint.h"
#include "runtime/files/append_file.h"
#include "runtime/step/rollback.h"
#include "tests/support/training_world.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using runtime::Rollbacks;
using ::testing::HasSubstr;

std::string nan_at(const std::vector<int>& steps, int rank = 0, int layer = 1) {
  std::vector<std::string> each;
  for (const int step : steps)
    each.push_back(fmt::format("{{kind: nan, step: {}, rank: {}, layer: {}}}", step, rank, layer));
  return fmt::format("fault: [{}]\n", fmt::join(each, ", "));
}

// 40 steps, a checkpoint after each fifth; NaN in the steps given.
TrainingRun rolling_back(const std::vector<int>& steps, const char* policy = "rollback") {
  TrainingRun run;
  run.ranks = 2;
  run.append = nan_at(steps);
  run.overrides = {"train.steps=40", "batch.global=6", "checkpoint.every_steps=5",
                   "parallel.verify_every=3", fmt::format("health.on_divergence={}", policy)};
  run.body = [](Rank& rank) { rank.trainer.run(); };
  return run;
}

std::vector<nlohmann::ordered_json> health_lines(const TrainingResult& result,
                                                 const std::string& kind) {
  std::vector<nlohmann::ordered_json> found;
  for (const auto& line : result.lines) {
    if (line["event"] == "health" && line["kind"] == kind) found.push_back(line);
  }
  return found;
}

std::string checkpoint_of(const std::string& output, int step) {
  return fmt::format("{}/checkpoints/step-{:08}", output, step);
}

// One line for each of the 40 steps, in order; those `left_out` not applied, all others applied.
void expect_left_out(const TrainingResult& result, const std::vector<int>& left_out) {
  ASSERT_FALSE(result.error) << result.message;
  std::int64_t step = 0;
  std::int64_t applied = 0;
  for (const auto& line : result.lines) {
    if (line["event"] != "step") continue;
    ++step;
    const bool out = std::find(left_out.begin(), left_out.end(), step) != left_out.end();
    applied += out ? 0 : 1;
    EXPECT_EQ(line["step"], step);
    EXPECT_EQ(line["applied"], !out) << step;
    EXPECT_EQ(line["applied_steps"], applied);
    EXPECT_EQ(line["loss"].is_null(), out) << step;
    EXPECT_EQ(line["diverged"], false);
    EXPECT_EQ(line["overflow"], false);
    if (out) {
      EXPECT_EQ(line["tokens"], 0);
    }
  }
  EXPECT_EQ(step, 40);
  const auto ledger = runtime::read_ledger(result.output + "/ledger.jsonl");  // checks the chain
  ASSERT_EQ(ledger.size(), 40U);
  for (const int each : left_out) {
    const auto& fields = ledger.at(static_cast<std::size_t>(each) - 1).fields;
    EXPECT_THAT(fields, ::testing::Contains(
                            std::pair<std::string, std::string>("outcome", "\"left_out\"")));
    EXPECT_THAT(fields, ::testing::Contains(std::pair<std::string, std::string>(
                            "data_position", std::to_string(6 * (each - 1)))));
  }
}

struct Layout {
  int ranks;
  int stage;
  const char* compute;
};

class EveryLayout : public ::testing::TestWithParam<Layout> {};

// Leaving out exactly the broken step must equal, bit for bit: a run that skips it where it stands,
// and a resume from the same checkpoint with that step forced to be left out.
TEST_P(EveryLayout, EqualsARunThatLeavesTheStepOut) {
  TrainingWorld world(tiny_config());
  const auto laid_out = [](TrainingRun run) {
    run.ranks = GetParam().ranks;
    run.append = nan_at({27}, GetParam().ranks - 1);
    run.overrides.push_back(fmt::format("parallel.zero_stage={}", GetParam().stage));
    run.overrides.push_back(fmt::format("precision.compute={}", GetParam().compute));
    return run;
  };
  const TrainingResult result = world.train(laid_out(rolling_back({27})));
  expect_left_out(result, {27});
  EXPECT_EQ(runtime::read_rollbacks(result.output), (Rollbacks{{15, 27, 27}}));
  const auto lines = health_lines(result, "rollback");
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_EQ(lines[0]["step"], 27);
  EXPECT_EQ(lines[0]["outcome"], "diverged");
  EXPECT_EQ(lines[0]["to"], 15);
  EXPECT_EQ(lines[0]["left_out"].dump(), "[[27,27]]");
  EXPECT_THAT(lines[0]["cause"].get<std::string>(),
              HasSubstr(fmt::format("rank {}: the first inf or NaN is in the output of block 1",
                                    GetParam().ranks - 1)));

  const TrainingResult skipping = world.train(laid_out(rolling_back({27}, "skip")));
  EXPECT_EQ(result.state, skipping.state);
  auto others = result.step_lines();
  auto expected = skipping.step_lines();
  ASSERT_EQ(others.size(), expected.size());
  EXPECT_NE(others[26], expected[26]);
  others.erase(others.begin() + 26);
  expected.erase(expected.begin() + 26);
  EXPECT_EQ(others, expected);

  // As if it had been known from step 16 on.
  TrainingRun known = laid_out(rolling_back({27}, "stop"));
  known.output = "known";
  const TrainingResult stopped = world.train(known);
  ASSERT_EQ(stopped.error, core::ErrorKind::kDiverged);
  runtime::write_rollbacks(stopped.output, {{15, 27, 27}});
  known.resume = checkpoint_of(stopped.output, 15);
  const TrainingResult resumed = world.train(known);
  expect_left_out(resumed, {27});
  EXPECT_EQ(resumed.state, result.state);
  EXPECT_EQ(resumed.step_lines(), result.step_lines());
  EXPECT_EQ(resumed.ledger, result.ledger);
}

INSTANTIATE_TEST_SUITE_P(Layouts, EveryLayout,
                         ::testing::Values(Layout{1, 2, "fp32"}, Layout{2, 2, "bf16"},
                                           Layout{2, 0, "fp16"}, Layout{3, 1, "fp16"},
                                           Layout{3, 2, "fp32"}),
                         [](const auto& each) {
                           return fmt::format("{}ranks_stage{}_{}", each.param.ranks,
                                              each.param.stage, each.param.compute);
                         });

TEST(Rollback, IsTheSameAtEveryNumberOfRanks) {
  TrainingWorld world(tiny_config());
  std::vector<TrainingResult> results;
  for (const int ranks : {1, 2, 3}) {
    TrainingRun run = rolling_back({27, 33});
    run.ranks = ranks;
    run.overrides.push_back("run.reproducible=ranks");
    results.push_back(world.train(run));
    expect_left_out(results.back(), {27, 33});
    EXPECT_EQ(results.back().state, results.front().state);
    EXPECT_EQ(results.back().ledger, results.front().ledger);
    EXPECT_EQ(results.back().step_lines(), results.front().step_lines());
  }
}

TEST(Rollback, AsOftenAsItBreaks) {
  TrainingWorld world(tiny_config());
  const TrainingResult apart = world.train(rolling_back({27, 33}));
  expect_left_out(apart, {27, 33});
  EXPECT_EQ(runtime::read_rollbacks(apart.output), (Rollbacks{{15, 27, 27}, {20, 33, 33}}));
  const auto lines = health_lines(apart, "rollback");
  EXPECT_EQ(lines.back()["left_out"].dump(), "[[27,27],[33,33]]");

  expect_left_out(world.train(rolling_back({27, 28})), {27, 28});

  // A third one in succession: what went before is taken for the cause.
  const TrainingResult three = world.train(rolling_back({27, 28, 29}));
  expect_left_out(three, {24, 25, 26, 27, 28, 29});
}

// The last step of all may be the one.
TEST(Rollback, AtTheLastStep) {
  TrainingWorld world(tiny_config());
  const TrainingResult result = world.train(rolling_back({40}));
  expect_left_out(result, {40});
  EXPECT_TRUE(fs::exists(checkpoint_of(result.output, 40)));
}

TEST(Rollback, WithoutAHealthyCheckpointTheRunEnds) {
  TrainingWorld world(tiny_config());
  for (const int step : {3, 15}) {  // no checkpoint; two that ten steps have not followed
    const TrainingResult result = world.train(rolling_back({step}));
    ASSERT_EQ(result.error, core::ErrorKind::kDiverged);
    EXPECT_THAT(result.message, HasSubstr(fmt::format("step {}: the loss is not finite", step)));
    EXPECT_THAT(result.message, HasSubstr("the output of block 1"));
    EXPECT_THAT(result.message, HasSubstr("no healthy checkpoint to go back to"));
    EXPECT_EQ(result.step_lines().size(), static_cast<std::size_t>(step));
    EXPECT_FALSE(fs::exists(result.output + "/rollbacks.json"));
  }
}

TEST(Rollback, IsCapped) {
  TrainingWorld world(tiny_config());
  std::vector<int> rest;
  for (int step = 27; step <= 40; ++step)
    rest.push_back(step);
  TrainingResult result = world.train(rolling_back(rest));
  ASSERT_EQ(result.error, core::ErrorKind::kDiverged);
  EXPECT_THAT(result.message, HasSubstr("step 35: the loss is not finite on rank 0"));
  EXPECT_THAT(result.message, HasSubstr("the output of block 1"));
  EXPECT_THAT(result.message, HasSubstr("gone back to step 15 8 times already"));
  EXPECT_THAT(result.message, HasSubstr("left out so far: 16 to 34"));

  TrainingRun few = rolling_back(rest);
  few.overrides.push_back("precision.loss_scale.max_consecutive_skips=6");
  result = world.train(few);
  ASSERT_EQ(result.error, core::ErrorKind::kDiverged);
  EXPECT_THAT(result.message, HasSubstr("steps 24 to 29 would be left out, and 6 steps in a row"));
}

// Killed right after the decision to go back was written down: the checkpoints of the steps given
// up are passed over, and the run ends as if nothing had happened.
TEST(Rollback, SurvivesAKillBeforeAnythingWentBack) {
  TrainingWorld world(tiny_config());
  const TrainingResult whole = world.train(rolling_back({27}));
  TrainingRun run = rolling_back({27}, "stop");
  run.output = "killed";
  const TrainingResult stopped = world.train(run);
  core::Logger log(1, 2, core::LogLevel::kError);
  EXPECT_EQ(runtime::newest_whole_checkpoint(stopped.output, log)->state.step, 25);
  runtime::write_rollbacks(stopped.output, {{15, 27, 27}});
  const auto chosen = runtime::newest_whole_checkpoint(stopped.output, log);
  ASSERT_TRUE(chosen.has_value());
  EXPECT_EQ(chosen->state.step, 15);
  run = rolling_back({27});
  run.output = "killed";
  run.resume = chosen->directory;
  const TrainingResult resumed = world.train(run);
  expect_left_out(resumed, {27});
  EXPECT_EQ(resumed.state, whole.state);
  EXPECT_EQ(resumed.step_lines(), whole.step_lines());
  EXPECT_EQ(resumed.ledger, whole.ledger);
  bool told = false;
  for (const auto& line : resumed.lines)
    told = told || (line["event"] == "resume" && line["left_out"].dump() == "[[27,27]]");
  EXPECT_TRUE(told);
}

// A checkpoint taken since the rollback knows of it, and is as good as any.
TEST(Rollback, IsKnownToLaterCheckpoints) {
  TrainingWorld world(tiny_config());
  const TrainingResult whole = world.train(rolling_back({27}));
  core::Logger log(1, 2, core::LogLevel::kError);
  fs::remove_all(checkpoint_of(whole.output, 40));
  const auto chosen = runtime::newest_whole_checkpoint(whole.output, log);
  ASSERT_TRUE(chosen.has_value());
  EXPECT_EQ(chosen->state.step, 35);
  EXPECT_EQ(chosen->state.decision.rollbacks, (Rollbacks{{15, 27, 27}}));
  // In another OUTPUT its own list counts, and a file of a run that was there before does not.
  TrainingRun run = rolling_back({});
  run.append = "";
  run.resume = chosen->directory;
  run.output = "elsewhere";
  fs::create_directories(world.directory() / "elsewhere");
  runtime::write_rollbacks((world.directory() / "elsewhere").string(),
                           {{15, 37, 39}, {15, 36, 36}});
  const TrainingResult resumed = world.train(run);
  ASSERT_FALSE(resumed.error) << resumed.message;
  EXPECT_EQ(resumed.state, whole.state);
}

// Interrupted while checkpoints were on their way to being healthy: they still become it.
TEST(Rollback, GoesBackToACheckpointOfAnEarlierAttempt) {
  TrainingWorld world(tiny_config());
  const TrainingResult whole = world.train(rolling_back({27}));
  TrainingRun run = rolling_back({27});
  run.output = "attempts";
  run.overrides.push_back("schedule.total_steps=40");
  run.overrides.push_back("train.steps=22");
  const TrainingResult first = world.train(run);
  ASSERT_FALSE(first.error) << first.message;
  run.overrides.back() = "train.steps=40";
  run.resume = checkpoint_of(first.output, 20);
  const TrainingResult second = world.train(run);
  expect_left_out(second, {27});
  EXPECT_EQ(runtime::read_rollbacks(second.output), (Rollbacks{{15, 27, 27}}));
  EXPECT_EQ(second.state, whole.state);
}

// The request came with the report of the broken step, and comes only once.
TEST(Rollback, KeepsARequestForACheckpoint) {
  TrainingWorld world(tiny_config());
  TrainingRun run = rolling_back({21});
  run.output = "asked";
  run.overrides.push_back("schedule.total_steps=40");
  run.overrides.push_back("train.steps=20");
  const TrainingResult first = world.train(run);
  ASSERT_FALSE(first.error) << first.message;
  run.overrides.back() = "train.steps=40";
  run.overrides.push_back("checkpoint.every_steps=0");
  run.resume = checkpoint_of(first.output, 20);
  run.body = [](Rank& rank) {
    if (rank.number() == 0) rank.trainer.monitor().request_checkpoint(1);
    rank.trainer.run();
  };
  const TrainingResult second = world.train(run);
  expect_left_out(second, {21});
  EXPECT_EQ(runtime::read_rollbacks(second.output), (Rollbacks{{10, 21, 21}}));
  EXPECT_TRUE(fs::exists(checkpoint_of(second.output, 11)));
}

// A run begun anew forgets what an earlier one left out.
TEST(Rollback, AFreshStartForgetsThem) {
  TrainingWorld world(tiny_config());
  TrainingRun run = rolling_back({27});
  run.output = "again";
  const TrainingResult first = world.train(run);
  expect_left_out(first, {27});
  run.append = "";
  expect_left_out(world.train(run), {});
}

// From a checkpoint further back, chosen by hand, a later healthy one of the abandoned past must
// not be gone "back" to.
TEST(Rollback, PassesOverCheckpointsOfAnotherPast) {
  TrainingWorld world(tiny_config());
  TrainingRun run = rolling_back({});
  run.append = "";
  run.output = "past";
  run.overrides.push_back("checkpoint.keep=20");
  const TrainingResult first = world.train(run);
  run = rolling_back({22});
  run.output = "past";
  run.overrides.push_back("checkpoint.every_steps=0");
  run.overrides.push_back("optimizer.learning_rate=1e-3");
  run.resume = checkpoint_of(first.output, 15);
  const TrainingResult second = world.train(run);
  expect_left_out(second, {22});
  EXPECT_EQ(runtime::read_rollbacks(second.output), (Rollbacks{{15, 22, 22}}));
}

}  // namespace
}  // namespace lockstep::testing
