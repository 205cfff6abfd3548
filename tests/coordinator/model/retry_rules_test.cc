#include "coordinator/model/retry_rules.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>

#include "tests/coordinator/model/run_fixture.h"

namespace lockstep::coordinator::testing {
namespace {

using Category = FailureCategory;

RunChange running_again(RunChange change) {
  change.add(EventKind::kQueued, "coordinator");
  add_attempt(change);
  change.add(EventKind::kLaunched, "coordinator");
  change.add(EventKind::kRanksReady, "agent", {{"resumed_from", ""}});
  return change;
}

// Ends the current attempt as `exit` says; the newest verified checkpoint is the one known.
void end(RunChange& change, const ExitInfo& exit, double jitter = 0.0) {
  std::optional<VerifiedCheckpoint> checkpoint;
  if (!change.run().latest_checkpoint.empty()) {
    checkpoint = {change.run().checkpoint_step, change.run().latest_checkpoint};
  }
  end_attempt(change, {exit, change.now_ns(), {}, {}}, checkpoint, jitter);
}

TEST(F13_Retries, ByCategory) {
  const std::map<Category, bool> retried = {
      {Category::kConfig, false},     {Category::kLaunch, true},
      {Category::kDependency, false}, {Category::kUserExit, false},
      {Category::kRankSignal, true},  {Category::kOom, false},
      {Category::kNumeric, false},    {Category::kData, false},
      {Category::kHang, true},        {Category::kHostLost, true},
      {Category::kCoordinator, true}, {Category::kTimeLimit, false},
      {Category::kLogQuota, false},   {Category::kDiskFull, false},
      {Category::kPreempted, true},   {Category::kCommunication, true},
      {Category::kInternal, false},   {Category::kCrashLoop, false},
      {Category::kStopped, true},
  };
  for (const auto& [category, again] : retried) {
    RunChange change = run_in(RunState::kRunning);
    end(change, exit_of(category, 0, 3));
    EXPECT_EQ(change.run().state, again ? RunState::kBackoff : RunState::kFailed)
        << to_string(category);
    EXPECT_EQ(change.run().result->retryable, again) << to_string(category);
    EXPECT_FALSE(change.record().current()->slots_leased);
  }
}

TEST(F13_Retries, UserExitsByTheCodesOfThePolicy) {
  RunChange change = run_in(RunState::kRunning);
  auto run = change.run();
  run.retry_policy.on_exit_codes = {42};
  ExitInfo exit = exit_of(Category::kUserExit);
  exit.code = 42;
  EXPECT_TRUE(is_retryable(exit, run));
  exit.code = 43;
  EXPECT_FALSE(is_retryable(exit, run));
}

TEST(F13_Retries, ACrashLoopStopsAfterTwo) {
  for (const Category category :
       {Category::kRankSignal, Category::kCommunication, Category::kHang}) {
    RunChange change = run_in(RunState::kRunning);
    end(change, exit_of(category, 1, 40));
    ASSERT_EQ(change.run().state, RunState::kBackoff);
    RunChange again = running_again(change);
    end(again, exit_of(category, 1, 40));
    EXPECT_EQ(again.run().state, RunState::kFailed);
    if (category != Category::kHang) {
      EXPECT_EQ(again.run().state_reason, "CRASH_LOOP");
      EXPECT_EQ(again.run().result->category, Category::kCrashLoop);
      EXPECT_EQ(again.record().attempts.back().exit->category, category);
    }
  }
}

TEST(F13_Retries, AnotherRankStepCategoryOrANewCheckpointIsNoCrashLoop) {
  const ExitInfo first = exit_of(Category::kRankSignal, 1, 40);
  for (int difference = 0; difference < 4; ++difference) {
    RunChange change = run_in(RunState::kRunning);
    end(change, first);
    RunChange again = running_again(change);
    ExitInfo second = first;
    if (difference == 0) second.failing_rank = 0;
    if (difference == 1) second.step = 41;
    if (difference == 2) second.category = Category::kCommunication;
    if (difference == 3) add_checkpoint(again, 39);
    end(again, second);
    EXPECT_EQ(again.run().state, RunState::kBackoff) << difference;
  }
}

TEST(F13_Retries, WhatTheMachinesDidIsNoCrashLoop) {
  for (const Category category : {Category::kHostLost, Category::kCoordinator}) {
    RunChange change = run_in(RunState::kRunning);
    for (int i = 0; i < 4; ++i) {
      end(change, exit_of(category, -1, 0));
      ASSERT_EQ(change.run().state, RunState::kBackoff);
      change = running_again(change);
    }
  }
}

TEST(F13_Retries, LaunchTwiceInARowHangOnce) {
  RunChange launch = run_in(RunState::kStarting);
  for (int i = 0; i < 2; ++i) {
    end(launch, exit_of(Category::kLaunch));
    ASSERT_EQ(launch.run().state, RunState::kBackoff);
    launch.add(EventKind::kQueued, "coordinator");
    add_attempt(launch);
  }
  end(launch, exit_of(Category::kLaunch));
  EXPECT_EQ(launch.run().state, RunState::kFailed);

  RunChange hang = run_in(RunState::kRunning);
  end(hang, exit_of(Category::kHang, 0, 1));
  ASSERT_EQ(hang.run().state, RunState::kBackoff);
  hang = running_again(hang);
  end(hang, exit_of(Category::kHang, 1, 99));
  EXPECT_EQ(hang.run().state, RunState::kFailed);
}

TEST(F13_Retries, TheBudgetEndsAndThreeCheckpointsRefillIt) {
  RunChange change = run_in(RunState::kRunning);
  std::int64_t step = 0;
  for (int i = 0; i < 5; ++i) {
    end(change, exit_of(Category::kRankSignal, 0, ++step));
    ASSERT_EQ(change.run().state, RunState::kBackoff) << i;
    change = running_again(change);
  }
  RunChange refilled = change;
  end(change, exit_of(Category::kRankSignal, 0, ++step));
  EXPECT_EQ(change.run().state, RunState::kFailed);
  EXPECT_EQ(change.run().restart_count, 5);
  EXPECT_NE(change.run().state_message.find("5 restarts are used up"), std::string::npos);

  for (int i = 1; i <= kRefillCheckpoints; ++i)
    add_checkpoint(refilled, 100 + i);
  end(refilled, exit_of(Category::kRankSignal, 0, ++step));
  EXPECT_EQ(refilled.run().state, RunState::kBackoff);
  EXPECT_EQ(refilled.run().restart_count, 6);
}

TEST(F13_Retries, NoRestartsWhenThePolicySaysNone) {
  auto run = submitted_run();
  run.retry_policy.max_restarts = -1;
  RunChange change = new_run(run);
  bring_to_running(change);
  end(change, exit_of(Category::kRankSignal, 0, 1));
  EXPECT_EQ(change.run().state, RunState::kFailed);
}

TEST(F13_BackOff, DoublesUpToTheCapWithinAQuarterAndIsPersisted) {
  std::mt19937_64 random(3);
  std::uniform_real_distribution<double> chance(-1.0, 1.0);
  for (int i = 0; i < 2000; ++i) {
    RetryPolicy policy;
    policy.base_delay_ns = static_cast<std::int64_t>(random() % 100 + 1) * kSecond;
    policy.max_delay_ns = policy.base_delay_ns * static_cast<std::int64_t>(random() % 100 + 1);
    const int earlier = static_cast<int>(random() % 70);
    const double exact =
        std::min(static_cast<double>(policy.base_delay_ns) * std::pow(2.0, earlier),
                 static_cast<double>(policy.max_delay_ns));
    const double jitter = chance(random);
    const auto delay = static_cast<double>(retry_delay_ns(policy, earlier, jitter));
    EXPECT_NEAR(delay, exact * (1.0 + jitter / 4.0), 2.0);
    EXPECT_GE(delay, exact * 0.75 - 2.0);
    EXPECT_LE(delay, exact * 1.25 + 2.0);
  }
  RunChange change = run_in(RunState::kRunning);
  end(change, exit_of(Category::kRankSignal, 0, 1), 1.0);
  EXPECT_EQ(change.run().backoff_until_ns, change.now_ns() + 12'500'000'000);
}

TEST(EndOfAttempt, ByIntentAndExit) {
  struct Row {
    StopIntent intent;
    Category exit;
    RunState state;
  };
  for (const Row& row : {
           Row{StopIntent::kNone, Category::kDone, RunState::kSucceeded},
           Row{StopIntent::kPause, Category::kDone, RunState::kSucceeded},
           Row{StopIntent::kPreempt, Category::kDone, RunState::kSucceeded},
           Row{StopIntent::kTimeLimit, Category::kDone, RunState::kSucceeded},
           Row{StopIntent::kCancel, Category::kDone, RunState::kCancelled},
           Row{StopIntent::kCancel, Category::kStopped, RunState::kCancelled},
           Row{StopIntent::kCancel, Category::kRankSignal, RunState::kCancelled},
           Row{StopIntent::kCancel, Category::kNumeric, RunState::kCancelled},
           Row{StopIntent::kTimeLimit, Category::kStopped, RunState::kFailed},
           Row{StopIntent::kTimeLimit, Category::kRankSignal, RunState::kFailed},
           Row{StopIntent::kPause, Category::kStopped, RunState::kPaused},
           Row{StopIntent::kPause, Category::kRankSignal, RunState::kPaused},
           Row{StopIntent::kPause, Category::kNumeric, RunState::kFailed},
           Row{StopIntent::kPreempt, Category::kStopped, RunState::kQueued},
           Row{StopIntent::kHostDrain, Category::kStopped, RunState::kQueued},
           Row{StopIntent::kHostDrain, Category::kRankSignal, RunState::kQueued},
           Row{StopIntent::kHostDrain, Category::kData, RunState::kFailed},
           Row{StopIntent::kNone, Category::kStopped, RunState::kBackoff},
           Row{StopIntent::kNone, Category::kRankSignal, RunState::kBackoff},
       }) {
    RunChange change = run_in(RunState::kRunning);
    add_checkpoint(change, 5);
    if (row.intent != StopIntent::kNone) add_stop_request(change, row.intent);
    end(change, exit_of(row.exit, 0, 6));
    EXPECT_EQ(change.run().state, row.state) << to_string(row.intent) << to_string(row.exit);
    EXPECT_EQ(change.run().restart_count, row.state == RunState::kBackoff ? 1 : 0);
  }
}

// A machine that goes down, or anybody's SIGTERM: nobody will resume it, so it is tried again.
TEST(EndOfAttempt, AStopFromOutsideIsTriedAgain) {
  for (const bool checkpointed : {true, false}) {
    RunChange change = run_in(RunState::kRunning);
    if (checkpointed) add_checkpoint(change, 5);
    ExitInfo exit = exit_of(Category::kStopped, -1, 6);
    exit.message = "stopped on request after step 6: checkpoint saved";
    end(change, exit);
    EXPECT_EQ(change.run().state, RunState::kBackoff) << checkpointed;
    EXPECT_EQ(change.run().stop_intent, StopIntent::kNone);
  }
}

TEST(EndOfAttempt, ARunWhoseOwnTimeIsOverIsPaused) {
  RunChange change = run_in(RunState::kRunning);
  add_checkpoint(change, 5);
  ExitInfo exit = exit_of(Category::kStopped, -1, 6);
  exit.message = "run.time_limit is over after step 6: checkpoint saved";
  end(change, exit);
  EXPECT_EQ(change.run().state, RunState::kPaused);
}

TEST(EndOfAttempt, F12_APauseWithoutACheckpointGoesOn) {
  RunChange change = run_in(RunState::kRunning);
  add_stop_request(change, StopIntent::kPause);
  end(change, exit_of(Category::kStopped));
  EXPECT_EQ(change.run().state, RunState::kBackoff);
  EXPECT_EQ(change.run().stop_intent, StopIntent::kNone);
}

TEST(EndOfAttempt, LostStepsOfAPauseAreStated) {
  RunChange change = run_in(RunState::kRunning);
  add_checkpoint(change, 30);
  add_stop_request(change, StopIntent::kPause);
  end(change, exit_of(Category::kRankSignal, 1, 42));
  EXPECT_NE(change.run().state_message.find("12 later steps are lost"), std::string::npos)
      << change.run().state_message;
}

TEST(EndOfAttempt, TheFirstCauseGoesBeforeWhatTheKillLooksLike) {
  RunChange change = run_in(RunState::kRunning);
  ExitInfo hang = exit_of(Category::kHang);
  hang.message = "rank 1 is one collective behind";
  change.add(EventKind::kStopping, "coordinator",
             {{"reason", "HANG"}, {"message", hang.message}, {"failure", hang}});
  end(change, exit_of(Category::kRankSignal, 0, 9));
  EXPECT_EQ(change.run().result->category, Category::kHang);
  EXPECT_EQ(change.run().result->message, hang.message);
  EXPECT_EQ(change.run().hang_count, 1);
}

TEST(EndOfAttempt, ACheckpointThatIsGoneIsForgotten) {
  RunChange change = run_in(RunState::kRunning);
  add_checkpoint(change, 30);
  end_attempt(change, {exit_of(Category::kRankSignal, 0, 31), 1, {}, {}}, std::nullopt, 0.0);
  EXPECT_EQ(change.run().latest_checkpoint, "");
  EXPECT_EQ(change.run().checkpoint_step, 0);
}

}  // namespace
}  // namespace lockstep::coordinator::testing
