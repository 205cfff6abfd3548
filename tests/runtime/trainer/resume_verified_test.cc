// A resume compares the steps that it computes again with the lines that it cut.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "runtime/checkpoint/checkpoint.h"
#include "tests/support/training_world.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

// Ten steps with a checkpoint after the fifth and two validations beyond it.
TrainingRun ten_steps() {
  TrainingRun run;
  run.ranks = 2;
  run.output = "run";
  run.overrides = {"train.steps=10", "checkpoint.every_steps=5", "parallel.verify_every=2",
                   "schedule.total_steps=10"};
  run.body = [](Rank& rank) { rank.trainer.run(); };
  return run;
}

std::string checkpoint_of(const TrainingResult& result, int step) {
  return fmt::format("{}/checkpoints/step-{:08}", result.output, step);
}

TrainingRun resumed_from_5(const TrainingResult& whole, TrainingRun run) {
  run.resume = checkpoint_of(whole, 5);
  return run;
}

std::vector<nlohmann::ordered_json> verdicts(const TrainingResult& result) {
  std::vector<nlohmann::ordered_json> found;
  for (const auto& line : result.lines) {
    if (line["event"] == "resume" && line.contains("resume_verified")) found.push_back(line);
  }
  return found;
}

void replace_in(const std::string& path, const std::string& mark, const std::string& before,
                const std::string& after) {
  std::string text = read_file(path);
  const std::size_t line = text.find(mark);
  ASSERT_NE(line, std::string::npos);
  const std::size_t at = text.find(before, line);
  ASSERT_NE(at, std::string::npos);
  text.replace(at, before.size(), after);
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

TEST(ResumeVerified, TheSameSetUpGivesTheSameLines) {
  for (const int ranks : {1, 2}) {
    TrainingWorld world(tiny_config());
    TrainingRun run = ten_steps();
    run.ranks = ranks;
    const TrainingResult whole = world.train(run);
    const TrainingResult again = world.train(resumed_from_5(whole, run));
    ASSERT_FALSE(again.error) << again.message;
    const auto lines = verdicts(again);
    ASSERT_EQ(lines.size(), 1U);
    EXPECT_EQ(lines[0].dump(),
              R"({"event":"resume","step":10,"resume_verified":true,"from":6,"to":10,)"
              R"("bits_promised":true})");
    EXPECT_EQ(again.step_lines(), whole.step_lines());
    EXPECT_EQ(again.ledger, whole.ledger);
    EXPECT_FALSE(fs::exists(whole.output + "/cut"));
  }
}

TEST(ResumeVerified, AnAlteredLineIsNamed) {
  struct Case {
    const char* file;
    const char* mark;
    const char* before;
    const char* after;
    int step;
    const char* line;
    const char* field;
  };
  const Case cases[] = {{"metrics.jsonl", R"({"event":"step","step":8,)", R"("loss":)",
                         R"("loss":1)", 8, "step", "loss"},
                        {"metrics.jsonl", R"({"event":"step","step":7,)", R"("applied":true)",
                         R"("applied":false)", 7, "step", "applied"},
                        {"ledger.jsonl", R"("step":6,)", R"("coefficient":)", R"("coefficient":2)",
                         6, "ledger", "coefficient"}};
  for (const Case& one : cases) {
    SCOPED_TRACE(one.field);
    TrainingWorld world(tiny_config());
    const TrainingResult whole = world.train(ten_steps());
    replace_in(whole.output + "/" + one.file, one.mark, one.before, one.after);
    const TrainingResult again = world.train(resumed_from_5(whole, ten_steps()));
    ASSERT_FALSE(again.error) << again.message;
    const auto lines = verdicts(again);
    ASSERT_EQ(lines.size(), 1U);
    EXPECT_EQ(lines[0]["resume_verified"], false);
    EXPECT_EQ(lines[0]["bits_promised"], true);
    EXPECT_EQ(lines[0]["step"], one.step);
    EXPECT_EQ(lines[0]["line"], one.line);
    EXPECT_EQ(lines[0]["field"], one.field);
    EXPECT_NE(lines[0]["before"], lines[0]["now"]);
    EXPECT_EQ(again.state, whole.state);
  }
}

// What changes the bits by right is compared, but nothing was promised.
TEST(ResumeVerified, AnotherSetUpIsNotHeldToItsBits) {
  for (const char* change : {"ranks", "optimizer.learning_rate=4e-3", "run.reproducible=none"}) {
    SCOPED_TRACE(change);
    TrainingWorld world(tiny_config());
    TrainingRun run = ten_steps();
    const TrainingResult whole = world.train(run);
    if (std::string(change) == "ranks") {
      run.ranks = 3;
    } else {
      run.overrides.emplace_back(change);
    }
    const TrainingResult again = world.train(resumed_from_5(whole, run));
    ASSERT_FALSE(again.error) << again.message;
    const auto lines = verdicts(again);
    ASSERT_EQ(lines.size(), 1U);
    EXPECT_EQ(lines[0]["bits_promised"], false);
    if (std::string(change).starts_with("optimizer")) {
      EXPECT_EQ(lines[0]["resume_verified"], false);
    }
  }
}

// Another cadence, another place of the run, another number of ranks under `ranks`.
TEST(ResumeVerified, WhatTouchesNoBitsIsHeldToThem) {
  TrainingWorld world(tiny_config());
  TrainingRun run = ten_steps();
  run.overrides.emplace_back("run.reproducible=ranks");
  const TrainingResult whole = world.train(run);
  run.ranks = 3;
  run.overrides.emplace_back("parallel.zero_stage=1");
  run.overrides.emplace_back("parallel.verify_every=3");
  run.overrides.emplace_back("metrics.every_steps=2");
  run.overrides.emplace_back("checkpoint.keep=7");
  const TrainingResult again = world.train(resumed_from_5(whole, run));
  ASSERT_FALSE(again.error) << again.message;
  const auto lines = verdicts(again);
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_EQ(lines[0]["resume_verified"], true) << lines[0];
  EXPECT_EQ(lines[0]["bits_promised"], true);
}

// The interrupted attempt ends at step 7 without a checkpoint; 8 to 10 are still compared.
TEST(ResumeVerified, GoesOnAfterAnotherInterruption) {
  TrainingWorld world(tiny_config());
  const TrainingResult whole = world.train(ten_steps());
  replace_in(whole.output + "/metrics.jsonl", R"({"event":"step","step":9,)", R"("loss":)",
             R"("loss":1)");
  TrainingRun interrupted = resumed_from_5(whole, ten_steps());
  interrupted.body = [](Rank& rank) {
    rank.trainer.step();
    rank.trainer.step();
  };
  EXPECT_TRUE(verdicts(world.train(interrupted)).empty());
  const TrainingResult again = world.train(resumed_from_5(whole, ten_steps()));
  const auto lines = verdicts(again);
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_EQ(lines[0]["resume_verified"], false);
  EXPECT_EQ(lines[0]["step"], 9);
  EXPECT_EQ(lines[0]["field"], "loss");
  EXPECT_EQ(again.ledger, whole.ledger);
}

TEST(ResumeVerified, InAnotherOutputThereIsNothingToCompare) {
  TrainingWorld world(tiny_config());
  const TrainingResult whole = world.train(ten_steps());
  TrainingRun run = resumed_from_5(whole, ten_steps());
  run.output = "elsewhere";
  EXPECT_TRUE(verdicts(world.train(run)).empty());
}

// Resumed by hand from an older checkpoint and ended before the next save: the newer ones are of a
// past that the files no longer tell.
TEST(CheckpointToContinue, PassesOverThoseOfAnotherPast) {
  TrainingWorld world(tiny_config());
  TrainingRun run = ten_steps();
  run.overrides.emplace_back("checkpoint.keep=20");
  run.overrides[1] = "checkpoint.every_steps=2";
  const TrainingResult whole = world.train(run);
  core::Logger log(1, 2, core::LogLevel::kError);
  const auto chosen = [&] {
    return runtime::checkpoint_to_continue(whole.output, log, runtime::Wanted::kWhole);
  };
  EXPECT_EQ(chosen()->state.step, 10);
  run.resume = checkpoint_of(whole, 4);
  run.body = [](Rank& rank) { rank.trainer.step(); };
  EXPECT_EQ(world.train(run).step_lines().size(), 5U);
  EXPECT_EQ(chosen()->state.step, 4);
  fs::remove_all(checkpoint_of(whole, 2));
  fs::remove_all(checkpoint_of(whole, 4));
  try {
    chosen();
    ADD_FAILURE() << "took one of another past, or none";
  } catch (const core::Error& error) {
    EXPECT_EQ(error.kind(), core::ErrorKind::kData);
    EXPECT_THAT(error.what(), HasSubstr("step-00000010"));
  }
  fs::remove_all(whole.output + "/checkpoints");
  EXPECT_FALSE(chosen().has_value());
}

}  // namespace
}  // namespace lockstep::testing
