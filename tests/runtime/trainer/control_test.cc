#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "runtime/trainer/run_monitor.h"
#include "tests/support/training_world.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using runtime::RunMonitor;
using runtime::RunPhase;

TrainingRun six_steps(std::function<void(Rank&)> before) {
  TrainingRun run;
  run.ranks = 2;
  run.overrides = {"train.steps=6"};
  run.body = [before = std::move(before)](Rank& rank) {
    before(rank);
    rank.trainer.run();
  };
  return run;
}

bool has_checkpoint(const TrainingResult& result, int step) {
  return fs::exists(fmt::format("{}/checkpoints/step-{:08}/manifest.json", result.output, step));
}

nlohmann::ordered_json last_step_line(const TrainingResult& result) {
  nlohmann::ordered_json found;
  for (const auto& line : result.lines) {
    if (line["event"] == "step") found = line;
  }
  return found;
}

// Asked of one rank, done by all at the same step, and nothing else changes.
TEST(Control, ACheckpointThatOneRankIsAskedForIsEverybodys) {
  TrainingWorld world(tiny_config());
  const TrainingResult undisturbed = world.train(six_steps([](Rank&) {}));
  ASSERT_FALSE(undisturbed.error) << undisturbed.message;
  runtime::RunSnapshot end;
  TrainingRun run = six_steps([](Rank& rank) {
    if (rank.number() == 1) rank.trainer.monitor().request_checkpoint(1);
  });
  run.body = [&, inner = run.body](Rank& rank) {
    inner(rank);
    if (rank.number() != 1) return;
    end = rank.trainer.monitor().snapshot();
    EXPECT_EQ(rank.trainer.monitor().taken_request(), 1);
  };
  const TrainingResult asked = world.train(run);
  ASSERT_FALSE(asked.error) << asked.message;
  EXPECT_FALSE(has_checkpoint(undisturbed, 1));
  EXPECT_TRUE(has_checkpoint(asked, 1));
  EXPECT_FALSE(has_checkpoint(asked, 2)) << "asked for once";
  EXPECT_EQ(asked.state, undisturbed.state);
  EXPECT_EQ(asked.step_lines(), undisturbed.step_lines());
  EXPECT_EQ(end.step, 6);
  EXPECT_EQ(end.checkpoint_step, 6);
  EXPECT_EQ(nlohmann::json(end.loss), nlohmann::json(last_step_line(asked)["loss"]));
  EXPECT_GT(end.activity, 6);
  EXPECT_GT(end.step_seconds, 0.0);
}

TEST(Control, AStopThatOneRankIsAskedForStopsAllWithACheckpoint) {
  TrainingWorld world(tiny_config());
  const TrainingResult result = world.train(six_steps([](Rank& rank) {
    if (rank.number() == 1) rank.trainer.monitor().request_stop(4);
  }));
  EXPECT_EQ(result.error, core::ErrorKind::kStopped);
  EXPECT_TRUE(has_checkpoint(result, 1));
}

TEST(RunMonitor, ASnapshotIsOfOneMoment) {
  RunMonitor monitor;
  std::atomic<bool> done{false};
  std::thread writer([&] {
    for (int i = 1; i <= 100'000; ++i) {
      monitor.got_on(RunPhase::kTraining);
      monitor.step_done(i, i, 2.0 * i, 3.0 * i);
    }
    done = true;
  });
  std::int64_t last = 0;
  while (!done) {
    const runtime::RunSnapshot now = monitor.snapshot();
    const auto step = static_cast<double>(now.step);
    ASSERT_EQ(now.loss, step);
    ASSERT_EQ(now.tokens_per_second, 2.0 * step);
    ASSERT_EQ(now.step_seconds, 3.0 * step);
    ASSERT_GE(now.activity, last);
    last = now.activity;
  }
  writer.join();
  EXPECT_EQ(monitor.snapshot().activity, 200'000);
}

TEST(RunMonitor, ARequestIsTakenOnceAndAStopStays) {
  RunMonitor monitor;
  EXPECT_EQ(monitor.take_requests(), runtime::kRequestNone);
  monitor.request_checkpoint(3);
  EXPECT_EQ(monitor.taken_request(), 0);
  EXPECT_EQ(monitor.take_requests(), runtime::kRequestCheckpoint);
  EXPECT_EQ(monitor.taken_request(), 3);
  monitor.request_checkpoint(3);
  EXPECT_EQ(monitor.take_requests(), runtime::kRequestNone);
  monitor.request_checkpoint(4);
  monitor.request_stop(5);
  EXPECT_EQ(monitor.take_requests(), runtime::kRequestCheckpoint | runtime::kRequestStop);
  EXPECT_EQ(monitor.take_requests(), runtime::kRequestStop);
  EXPECT_EQ(monitor.taken_request(), 5);
}

}  // namespace
}  // namespace lockstep::testing
