#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "tests/coordinator/attempts/attempt_test.h"

namespace lockstep::coordinator {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST_F(AttemptTest, RunsToItsEndAndKeepsWhatEachRankSaid) {
  const LaunchSpec run = launch(spec(2, {{"steps", 5}, {"say", "on stderr"}}));
  const AttemptStatus end = wait_for_end(run);
  EXPECT_EQ(end.exit.category, FailureCategory::kDone) << story(run);
  EXPECT_EQ(end.exit.code, 0);
  EXPECT_EQ(end.exit.step, 5);
  ASSERT_EQ(end.exit.ranks.size(), 2U);
  EXPECT_EQ(end.exit.ranks[1].code, 0);
  EXPECT_EQ(end.cleanup, "");
  for (const int rank : {0, 1}) {
    EXPECT_EQ(log(run, rank), "step 1\nstep 2\nstep 3\nstep 4\nstep 5\n");
    EXPECT_EQ(log(run, rank, true), "on stderr\n");
  }
  EXPECT_EQ(end.log_dropped, 0);
  EXPECT_GT(end.log_bytes, 80);
}

TEST_F(AttemptTest, StopsGracefullyAtAStepBoundary) {
  const LaunchSpec run = launch(spec(1, {{"step_ms", 20}}));
  wait_for_steps(run);
  EXPECT_EQ(attempts_.stop(run.attempt, {}), StopAnswer::kAccepted);
  const AttemptStatus end = wait_for_end(run);
  EXPECT_EQ(end.exit.category, FailureCategory::kStopped) << story(run);
  EXPECT_EQ(end.exit.code, 7);
  EXPECT_EQ(attempts_.stop(run.attempt, {}), StopAnswer::kEnded);
}

TEST_F(AttemptTest, F3_GoesOnWithoutItsCoordinatorAndIsFoundAgain) {
  const LaunchSpec run = spec(2, {{"steps", 100}, {"step_ms", 20}});
  {
    SupervisedAttempts first({state_.path().string(), LOCKSTEP_FAKE_RANK});
    first.launch(run);
  }
  const auto none = [](const std::string&) { return false; };
  std::vector<FoundAttempt> found = attempts_.find_all(none);
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].ref, run.attempt);
  EXPECT_EQ(found[0].spec, run);
  EXPECT_FALSE(found[0].ended);
  EXPECT_THAT(attempts_.find_all([](const std::string&) { return true; }), IsEmpty());
  const AttemptStatus running = wait_for(run, AttemptPhase::kRunning);
  EXPECT_TRUE(running.supervisor_alive);
  // What cannot be read is found as long as it lives.
  wait_for(run, AttemptPhase::kRunning);
  const std::string kept = lockstep::testing::read_file(directory(run) + "/launch.json");
  std::ofstream(directory(run) + "/launch.json") << "{";
  found = attempts_.find_all(none);
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].ref, (AttemptRef{run.attempt.run, 1, 0}));
  EXPECT_FALSE(found[0].spec);
  EXPECT_THROW(attempts_.set_aside(run.attempt), core::Error) << "it lives";
  std::ofstream(directory(run) + "/launch.json") << kept;
  const AttemptStatus end = wait_for_end(run);
  EXPECT_EQ(end.exit.category, FailureCategory::kDone) << story(run);
  EXPECT_TRUE(attempts_.find_all(none).at(0).ended);
  attempts_.set_aside(run.attempt);
  EXPECT_THAT(attempts_.find_all(none), IsEmpty());
  EXPECT_TRUE(std::filesystem::exists(directory(run) + ".aside-1/exit.json"));
  EXPECT_EQ(attempts_.poll(run.attempt).phase, AttemptPhase::kAbsent);
}

// Somebody cleans up where nobody should.
TEST_F(AttemptTest, ADirectoryThatVanishesUnderALiveAttemptIsNotTheEndOfIt) {
  LaunchSpec run = spec(2, {{"steps", 100000}, {"step_ms", 20}});
  launch(run);
  const AttemptStatus before = wait_for_steps(run);
  for (const char* what : {"", "/lock", "/launch.json"}) {
    SCOPED_TRACE(what);
    if (*what == '\0') {
      std::filesystem::remove_all(state_ / "runs");
    } else {
      std::filesystem::remove(directory(run) + what);
    }
    for (int i = 0; i < 5; ++i) {  // whoever looks meanwhile
      const AttemptPhase phase = attempts_.poll(run.attempt).phase;
      EXPECT_NE(phase, AttemptPhase::kEnded);
      EXPECT_NE(phase, AttemptPhase::kAbsent);
      engine_.tick();
      EXPECT_FALSE(is_terminal(engine_.state(run)));
    }
    wait_until(run, [&](const AttemptStatus& status) {
      return status.supervisor_alive && status.phase == AttemptPhase::kRunning &&
             std::filesystem::exists(directory(run) + "/launch.json") &&
             std::filesystem::exists(directory(run) + "/lock");
    });
    const AttemptStatus after = attempts_.poll(run.attempt);
    EXPECT_EQ(after.ranks, before.ranks) << "the same processes";
  }
  // Lines are kept again, and it can be stopped as ever.
  wait_until(run, [&](const AttemptStatus&) { return !log(run, 0).empty(); });
  EXPECT_EQ(attempts_.stop(run.attempt, {}), StopAnswer::kAccepted);
  EXPECT_EQ(wait_for_end(run).exit.category, FailureCategory::kStopped) << story(run);
}

// A rank or the supervisor gets a SIGTERM, as from a machine that goes down; mpirun does not take it.
TEST_F(AttemptTest, ASigtermFromOutsideIsAStop) {
  for (const bool to_supervisor : {true, false}) {
    LaunchSpec run = spec(2, {{"steps", 100000}, {"step_ms", 20}});
    launch(run);
    const AttemptStatus status = wait_for_steps(run);
    const std::int64_t target = to_supervisor ? status.supervisor_pid : status.ranks[1].pid;
    ASSERT_EQ(::kill(static_cast<pid_t>(target), SIGTERM), 0);
    const AttemptStatus end = wait_for_end(run);
    EXPECT_NE(end.exit.category, FailureCategory::kDone) << story(run);
    if (to_supervisor) {
      EXPECT_EQ(end.exit.category, FailureCategory::kStopped) << story(run);
      EXPECT_EQ(end.exit.failing_rank, -1) << story(run);
    }
  }
}

TEST_F(AttemptTest, MpirunThatIsKilledIsNamed) {
  const LaunchSpec run = launch(spec(2, {{"steps", 100000}, {"step_ms", 20}}));
  const AttemptStatus status = wait_for_steps(run);
  const auto supervisor = static_cast<pid_t>(status.supervisor_pid);
  for (const ProcessHandle& process : descendants_of(supervisor)) {
    const auto stat = read_stat(process.pid());
    if (stat && stat->parent == supervisor) process.send(SIGKILL);
  }
  const AttemptStatus end = wait_for_end(run);
  EXPECT_EQ(end.exit.category, FailureCategory::kRankSignal) << story(run);
  EXPECT_EQ(end.exit.failing_rank, -1);
  EXPECT_THAT(end.exit.message, HasSubstr("mpirun was ended by signal 9")) << story(run);
}

TEST_F(AttemptTest, SaysWhyNothingCouldBeLaunched) {
  LaunchSpec run = spec(2, {});
  run.program = {"/nowhere/lockstep"};
  launch(run);
  const AttemptStatus end = wait_for_end(run);
  EXPECT_EQ(end.exit.category, FailureCategory::kLaunch) << story(run);
  EXPECT_THAT(end.exit.message, HasSubstr("/nowhere/lockstep"));
  EXPECT_EQ(attempts_.poll({"never", 1, 5}).phase, AttemptPhase::kAbsent);
}

TEST_F(AttemptTest, F11_AnOldFenceChangesNothing) {
  const LaunchSpec run = launch(spec(1, {}));
  wait_for_steps(run);
  AttemptRef old = run.attempt;
  old.fence -= 1;
  StopRequest force;
  force.force = true;
  EXPECT_EQ(attempts_.stop(old, force), StopAnswer::kStaleFence);
  EXPECT_EQ(attempts_.poll(run.attempt).rung, StopRung::kNone);
  EXPECT_THROW(attempts_.launch(run), core::Error) << "launched twice";
  // Also by the socket itself, past the check of the files.
  const std::string text = to_text(to_json(force, old.fence));
  const auto reply = call_control(directory(run), text, 5000);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->text, "stale");
  EXPECT_EQ(attempts_.poll(run.attempt).rung, StopRung::kNone);
  EXPECT_EQ(attempts_.poll(run.attempt).phase, AttemptPhase::kRunning);
}

}  // namespace
}  // namespace lockstep::coordinator
