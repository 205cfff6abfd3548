#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "core/error.h"
#include "tests/coordinator/engine/engine_fixture.h"

// Starting, ending, retrying, stopping: with processes that the test ends.
namespace lockstep::coordinator::testing {
namespace {

class Attempts : public EngineTest {
 protected:
  int leased_slots() {
    int leased = 0;
    for (const HostInfo& host : engine_->hosts()) {
      for (const SlotInfo& slot : host.slots)
        leased += slot.run.empty() ? 0 : 1;
    }
    return leased;
  }
};

TEST_F(Attempts, ARunStartsTrainsAndSucceeds) {
  const std::string id = submit("a");
  EXPECT_EQ(state(id), RunState::kQueued);
  engine_->tick();
  const LaunchSpec& spec = process(id).spec;
  EXPECT_EQ(spec.resume, "never");
  EXPECT_EQ(spec.output, output("a"));
  EXPECT_EQ(spec.hosts, (std::vector<HostSlots>{{"h2", "localhost", {0, 1}}}));
  // The cores of this machine, in equal parts for its two slots.
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  EXPECT_EQ(spec.threads_per_rank,
            std::getenv("OMP_NUM_THREADS") == nullptr ? std::max(1, cores / 2) : 0);
  const std::string config = lockstep::testing::read_file(spec.config_file);
  EXPECT_EQ(config, run(id).texts->resolved_config);
  const std::string secret = lockstep::testing::read_file(spec.agent_token_file);
  EXPECT_EQ(std::filesystem::status(spec.agent_token_file).permissions(),
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  EXPECT_EQ(engine_->authenticate_agent(secret), ref(id));
  register_agent(id);
  register_agent(id);  // again after a lost answer
  EXPECT_EQ(state(id), RunState::kRunning);
  beat(id, 3);
  EXPECT_EQ(run(id).progress.step, 3);
  EXPECT_GT(run(id).progress.eta_time_ns, clock_.now_ns());
  end(id, FailureCategory::kDone, -1, 100);
  EXPECT_EQ(state(id), RunState::kSucceeded);
  EXPECT_EQ(engine_->authenticate_agent(secret), std::nullopt);
  EXPECT_FALSE(std::filesystem::exists(spec.agent_token_file));
  EXPECT_EQ(leased_slots(), 0);
}

TEST_F(Attempts, I2_SlotsAreGangedAndNeverTwice) {
  const std::string a = submit("a", 4);
  const std::string b = submit("b", 4);
  const std::string c = submit("c", 2);
  engine_->tick();
  EXPECT_EQ(state(a), RunState::kStarting);
  EXPECT_EQ(state(b), RunState::kQueued);
  const Explanation why = engine_->explain(b);
  ASSERT_FALSE(why.reasons.empty());
  EXPECT_FALSE(why.summary.empty());
  check();
  clock_.advance(5);
  engine_->tick();
  EXPECT_EQ(state(b), RunState::kQueued) << "what was leased in an earlier tick is still leased";
  check();
  end(a, FailureCategory::kDone);
  engine_->tick();
  EXPECT_EQ(state(b), RunState::kStarting);
  check();
  engine_->cancel({c, "", false, kSecond, ""}, caller_);
}

TEST_F(Attempts, HigherPriorityStartsFirst) {
  const std::string first = running("a", 4);
  CreateRequest low = request("low", 4);
  CreateRequest high = request("high", 4);
  high.priority = 10;
  const std::string low_id = submit(low);
  const std::string high_id = submit(high);
  EXPECT_EQ(engine_->explain(low_id).runs_ahead, std::vector<std::string>{high_id});
  end(first, FailureCategory::kDone);
  engine_->tick();
  EXPECT_EQ(state(high_id), RunState::kStarting);
  EXPECT_EQ(state(low_id), RunState::kQueued);
}

TEST_F(Attempts, F13_AFailureIsRetriedAfterItsDelayFromWhatIsThere) {
  const std::string id = running("a");
  checkpoints_.add(output("a"), 40);
  checkpoints_.add(output("a"), 50, false);  // F8: torn, so passed over
  end(id, FailureCategory::kRankSignal, 1, 52);
  EXPECT_EQ(state(id), RunState::kBackoff);
  EXPECT_EQ(run(id).restart_count, 1);
  EXPECT_EQ(run(id).checkpoint_step, 40);
  EXPECT_TRUE(engine_->explain(id).failure->retry_planned);
  const std::int64_t due = run(id).backoff_until_ns;
  EXPECT_GE(due, clock_.now_ns() + 7 * kSecond);
  EXPECT_LE(due, clock_.now_ns() + 13 * kSecond);
  restart();  // the jitter survives
  EXPECT_EQ(run(id).backoff_until_ns, due);
  clock_.advance(5);
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kBackoff);
  clock_.advance(10);
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kStarting);
  EXPECT_EQ(process(id).spec.resume, "auto");
  EXPECT_EQ(ref(id).number, 2);
  end(id, FailureCategory::kDone);
}

TEST_F(Attempts, F13_ACrashLoopStopsAfterTwo) {
  const std::string id = running("a");
  end(id, FailureCategory::kRankSignal, 1, 5);
  clock_.advance(20);
  bring_up(id);
  end(id, FailureCategory::kRankSignal, 1, 5);
  EXPECT_EQ(state(id), RunState::kFailed);
  EXPECT_EQ(run(id).result->category, FailureCategory::kCrashLoop);
  EXPECT_EQ(attempts_.entries.size(), 2U);
}

TEST_F(Attempts, ALaunchThatThrowsIsALaunchFailure) {
  attempts_.launch_error = "no mpirun here";
  const std::string id = submit("a");
  for (int i = 0; i < 3; ++i) {
    engine_->tick();
    clock_.advance(100);
    engine_->tick();
  }
  EXPECT_EQ(state(id), RunState::kFailed);
  EXPECT_EQ(run(id).result->category, FailureCategory::kLaunch);
  EXPECT_NE(run(id).state_message.find("no mpirun here"), std::string::npos);
  EXPECT_EQ(run(id).restart_count, 2);
}

TEST_F(Attempts, RanksThatDoNotComeUpAreALaunchFailure) {
  const std::string id = submit("a");
  engine_->tick();
  clock_.advance(299);
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kStarting);
  clock_.advance(2);
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kStopping);
  ASSERT_EQ(process(id).stops.size(), 1U);
  EXPECT_TRUE(process(id).stops[0].force);
  end(id, FailureCategory::kRankSignal, 0);
  EXPECT_EQ(run(id).result->category, FailureCategory::kLaunch);
}

TEST_F(Attempts, TheTimeLimitStopsGentlyAndFails) {
  CreateRequest limited = request("a");
  limited.time_limit_ns = 60 * kSecond;
  const std::string id = submit(limited);
  bring_up(id);
  clock_.advance(61);
  beat(id, 5);
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kStopping);
  ASSERT_EQ(process(id).stops.size(), 1U);
  EXPECT_FALSE(process(id).stops[0].force);
  EXPECT_EQ(process(id).stops[0].cause, FailureCategory::kTimeLimit);
  end(id, FailureCategory::kStopped, -1, 6);
  EXPECT_EQ(state(id), RunState::kFailed);
  EXPECT_EQ(run(id).result->category, FailureCategory::kTimeLimit);
}

// Somebody, or a time server, sets the clock of the machine by hours.
class WallClock : public Attempts, public ::testing::WithParamInterface<double> {};

TEST_P(WallClock, AStepOfItNeitherEndsNorExtendsATimeLimit) {
  CreateRequest limited = request("a");
  limited.time_limit_ns = 600 * kSecond;
  const std::string id = submit(limited);
  bring_up(id);
  beat(id, 1);
  clock_.set_wall(GetParam());
  clock_.advance(5);
  beat(id, 2);
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kRunning);
  restart();  // the next coordinator counts on
  clock_.advance(500);
  beat(id, 3);
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kRunning);
  clock_.advance(100);
  beat(id, 4);
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kStopping);
  EXPECT_EQ(run(id).stop_intent, StopIntent::kTimeLimit);
  end(id, FailureCategory::kStopped);
}

TEST_P(WallClock, AStepOfItLeavesABackoffAsLongAsItIs) {
  const std::string id = running("a");
  end(id, FailureCategory::kRankSignal, 1, 5);
  ASSERT_EQ(state(id), RunState::kBackoff);
  clock_.set_wall(GetParam());
  clock_.advance(7);
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kBackoff) << "10 s, 25 % less at the least";
  restart();
  clock_.advance(6);
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kStarting);
  end(id, FailureCategory::kDone);
}

TEST_P(WallClock, AStepOfItIsNoHangNoSilenceAndNoLateStart) {
  const std::string id = submit("a");
  engine_->tick();
  clock_.set_wall(GetParam());
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kStarting);
  register_agent(id);
  beat(id, 1);
  engine_->checkpoint(id, "", caller_);
  engine_->tick();
  clock_.set_wall(GetParam());
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kRunning);
  EXPECT_FALSE(run(id).suspect);
  EXPECT_TRUE(run(id).checkpoint_wanted);
  // And what is stuck is still found, in its own time.
  for (int step = 2; step <= 5; ++step)
    beat(id, step, 0, 0, 0.01);
  clock_.advance(31);
  beat(id, 5, 0, 0, 0.01);
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kStopping);
  end(id, FailureCategory::kHang);
}

TEST_P(WallClock, AStepOfItMovesNobodyInLine) {
  const std::string first = running("first", 4);
  const std::string older = submit("older", 4);
  clock_.set_wall(GetParam());
  const std::string younger = submit("younger", 4);
  EXPECT_EQ(engine_->explain(younger).runs_ahead, std::vector<std::string>{older});
  end(first, FailureCategory::kDone);
  engine_->tick();
  EXPECT_EQ(state(older), RunState::kStarting);
  EXPECT_EQ(state(younger), RunState::kQueued);
  end(older, FailureCategory::kDone);
}

INSTANTIATE_TEST_SUITE_P(Hours, WallClock, ::testing::Values(3600.0, -3600.0, 360'000.0),
                         [](const auto& step) {
                           return step.param < 0 ? std::string("Back")
                                                 : "Ahead" + std::to_string(int(step.param));
                         });

// A new start of the machine knows nothing of the steady clock of the last one, and its wall clock
// may be wrong: a pause is then never longer than the policy allows.
TEST_F(Attempts, ABackoffIsNotProlongedByARestartOfTheMachine) {
  const std::string id = running("a");
  end(id, FailureCategory::kRankSignal, 1, 5);
  clock_.reboot();
  clock_.set_wall(-360'000.0);
  restart();
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kBackoff);
  clock_.advance(751);  // 600 s and a quarter
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kStarting);
  end(id, FailureCategory::kDone);
}

TEST_F(Attempts, F12_PauseStopsOnlyBehindAVerifiedCheckpoint) {
  const std::string id = running("a");
  beat(id, 4);
  engine_->pause({id, "slots needed", ""}, caller_);
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kRunning);
  EXPECT_TRUE(process(id).stops.empty());
  EXPECT_EQ(leased_slots(), 2);
  const BeatAnswer asked = beat(id, 5);
  EXPECT_EQ(asked.control, Control::kCheckpoint);
  EXPECT_EQ(beat(id, 5).control_id, asked.control_id) << "the same request has the same id";
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kRunning) << "nothing has been saved";
  checkpoints_.add(output("a"), 6);
  beat(id, 6, 6, asked.control_id);
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kStopping);
  EXPECT_FALSE(process(id).stops.at(0).force);
  EXPECT_GT(beat(id, 7, 6, asked.control_id).control_id, asked.control_id);
  EXPECT_EQ(leased_slots(), 2) << "the processes are still there";
  checkpoints_.add(output("a"), 8);
  end(id, FailureCategory::kStopped, -1, 8);
  EXPECT_EQ(state(id), RunState::kPaused);
  EXPECT_EQ(run(id).checkpoint_step, 8);
  EXPECT_EQ(leased_slots(), 0);
  engine_->resume(id, "", caller_);
  bring_up(id);
  EXPECT_EQ(process(id).spec.resume, "auto");
  EXPECT_EQ(run(id).restart_count, 0);
  end(id, FailureCategory::kDone);
}

TEST_F(Attempts, F12_ACheckpointThatIsNotWholeGivesUpThePause) {
  const std::string id = running("a");
  engine_->pause({id, "", ""}, caller_);
  answer_checkpoint(id, 5, false);
  EXPECT_EQ(state(id), RunState::kRunning);
  EXPECT_EQ(run(id).stop_intent, StopIntent::kNone);
  EXPECT_TRUE(process(id).stops.empty());
  EXPECT_NE(run(id).state_message.find("torn"), std::string::npos);
  engine_->pause({id, "", ""}, caller_);  // and it may be asked again
  answer_checkpoint(id, 7);
  EXPECT_EQ(state(id), RunState::kStopping);
  end(id, FailureCategory::kStopped, -1, 7);
}

// The disk under its output is full: the run says so and trains on.
TEST_F(Attempts, APauseOrCheckpointThatCannotBeSavedIsGivenUpAtOnce) {
  const std::string id = running("a");
  for (const bool pauses : {true, false}) {
    if (pauses) engine_->pause({id, "", ""}, caller_);
    if (!pauses) engine_->checkpoint(id, "", caller_);
    const BeatAnswer asked = beat(id, 5);
    ASSERT_EQ(asked.control, Control::kCheckpoint);
    Beat failed;
    failed.attempt = ref(id);
    failed.step = 6;
    failed.acked_control_id = failed.failed_control_id = asked.control_id;
    failed.phase = "training";
    engine_->heartbeat(failed);
    engine_->tick();
    EXPECT_EQ(state(id), RunState::kRunning);
    EXPECT_EQ(run(id).stop_intent, StopIntent::kNone);
    EXPECT_FALSE(run(id).checkpoint_wanted);
    EXPECT_LT(run(id).checkpoint_answer_id, run(id).checkpoint_control_id);
    EXPECT_TRUE(process(id).stops.empty());
  }
  end(id, FailureCategory::kDone);
}

TEST_F(Attempts, F12_ACheckpointThatDoesNotComeGivesUpThePause) {
  const std::string id = running("a");
  engine_->pause({id, "", ""}, caller_);
  for (int i = 0; i < 70; ++i) {
    clock_.advance(9);
    beat(id, 5 + i);
    engine_->tick();
  }
  EXPECT_EQ(state(id), RunState::kRunning);
  EXPECT_EQ(run(id).stop_intent, StopIntent::kNone);
}

TEST_F(Attempts, APauseWhileStartingTakesEffectOnceItRuns) {
  const std::string id = submit("a");
  engine_->tick();
  engine_->pause({id, "", ""}, caller_);
  EXPECT_EQ(state(id), RunState::kStarting);
  register_agent(id);
  answer_checkpoint(id, 1);
  EXPECT_EQ(state(id), RunState::kStopping);
  end(id, FailureCategory::kStopped, -1, 1);
  EXPECT_EQ(state(id), RunState::kPaused);
}

TEST_F(Attempts, ACheckpointOnRequestIsTheOneAfterTheRequest) {
  const std::string id = running("a");
  checkpoints_.add(output("a"), 10);
  beat(id, 12, 10);  // a periodic one
  engine_->tick();
  EXPECT_EQ(run(id).checkpoint_step, 10);
  engine_->checkpoint(id, "", caller_);
  const BeatAnswer asked = beat(id, 13, 10);
  EXPECT_EQ(asked.control, Control::kCheckpoint);
  beat(id, 14, 10, asked.control_id);  // handed on, not yet saved
  engine_->tick();
  EXPECT_TRUE(run(id).checkpoint_wanted);
  checkpoints_.add(output("a"), 14);
  beat(id, 15, 14, asked.control_id);
  engine_->tick();
  EXPECT_FALSE(run(id).checkpoint_wanted);
  EXPECT_EQ(run(id).checkpoint_step, 14);
  EXPECT_EQ(state(id), RunState::kRunning);
  EXPECT_EQ(beat(id, 16, 14, asked.control_id).control, Control::kNone);
  end(id, FailureCategory::kDone);
}

TEST_F(Attempts, F10_SilenceIsSuspectAndHealsWithoutARestart) {
  const std::string id = running("a");
  beat(id, 5);
  for (int i = 0; i < 30; ++i) {  // five minutes
    clock_.advance(10.5);
    engine_->tick();
  }
  EXPECT_EQ(state(id), RunState::kRunning);
  EXPECT_TRUE(run(id).suspect);
  EXPECT_TRUE(process(id).stops.empty());
  beat(id, 400);
  engine_->tick();
  EXPECT_FALSE(run(id).suspect);
  EXPECT_EQ(run(id).restart_count, 0);
  EXPECT_EQ(attempts_.entries.size(), 1U);
  end(id, FailureCategory::kDone);
}

TEST_F(Attempts, F9_AHangIsFoundByActivityNotBySlowSteps) {
  const std::string id = running("a");
  for (int step = 1; step <= 25; ++step)
    beat(id, step, 0, 0, 6.0);
  for (int i = 0; i < 11; ++i) {  // 55 s of a median of 6 s: slow, not stuck
    clock_.advance(5);
    beat(id, 25, 0, 0, 6.0);
    engine_->tick();
    ASSERT_EQ(state(id), RunState::kRunning);
  }
  for (int i = 0; i < 2; ++i) {
    clock_.advance(5);
    beat(id, 25, 0, 0, 6.0);
    engine_->tick();
  }
  EXPECT_EQ(state(id), RunState::kStopping);
  ASSERT_EQ(process(id).stops.size(), 1U);
  EXPECT_TRUE(process(id).stops[0].force);
  EXPECT_EQ(process(id).stops[0].cause, FailureCategory::kHang);
  process(id).status.stuck = {"rank 1 waits in all-reduce 77"};
  end(id, FailureCategory::kRankSignal, 0, 25);
  EXPECT_EQ(state(id), RunState::kBackoff);
  EXPECT_EQ(run(id).result->category, FailureCategory::kHang);
  EXPECT_EQ(engine_->explain(id).failure->stuck.at(0), "rank 1 waits in all-reduce 77");
}

// A real process stands for rank 0: stopped as by SIGSTOP, it is silent and does nothing.
TEST_F(Attempts, F9_AStoppedRankZeroIsAHangThoughItIsSilent) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::raise(SIGSTOP);
    ::_exit(0);
  }
  ::waitpid(child, nullptr, WUNTRACED);
  const std::string id = running("a");
  for (int step = 1; step <= 5; ++step)
    beat(id, step, 0, 0, 0.01);
  clock_.advance(40);
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kRunning) << "silent, and for all we know at work";
  process(id).status.ranks = {{0, child, true}};
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kStopping);
  EXPECT_EQ(run(id).failure->category, FailureCategory::kHang);
  EXPECT_NE(run(id).failure->message.find("stopped"), std::string::npos);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  end(id, FailureCategory::kHang);
}

TEST_F(Attempts, F9_BeforeTheFirstStepMuchMayHaveToBeLoaded) {
  const std::string id = running("a");
  for (int i = 0; i < 66; ++i) {
    clock_.advance(9);
    beat(id, 0);
    engine_->tick();
    ASSERT_EQ(state(id), RunState::kRunning);
  }
  clock_.advance(20);
  beat(id, 0);
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kStopping);
  end(id, FailureCategory::kHang);
}

TEST_F(Attempts, F9_WithFastStepsTheFloorIsThirtySeconds) {
  const std::string id = running("a");
  for (int step = 1; step <= 25; ++step)
    beat(id, step, 0, 0, 0.01);
  clock_.advance(29);
  beat(id, 25, 0, 0, 0.01);
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kRunning);
  clock_.advance(2);
  beat(id, 25, 0, 0, 0.01);
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kStopping);
  end(id, FailureCategory::kHang);
}

TEST_F(Attempts, F11_AnOldAttemptChangesNothing) {
  const std::string id = running("a");
  const AttemptRef old = ref(id);
  end(id, FailureCategory::kRankSignal, 0, 3);
  clock_.advance(20);
  bring_up(id);
  ASSERT_NE(ref(id), old);
  EXPECT_GT(ref(id).fence, old.fence);
  const std::int64_t sequence = engine_->newest_sequence();
  const auto progress = run(id).progress;
  Beat late;
  late.attempt = old;
  late.step = 99;
  late.checkpoint_step = 99;
  EXPECT_EQ(refusal_of([&] { engine_->heartbeat(late); }), "STALE_FENCE");
  late.attempt.number = 2;  // its number is guessed right, its fence is not
  EXPECT_EQ(refusal_of([&] { engine_->heartbeat(late); }), "STALE_FENCE");
  AgentRegistration again;
  again.attempt = old;
  again.world_size = 2;
  EXPECT_EQ(refusal_of([&] { engine_->register_agent(again); }), "STALE_FENCE");
  engine_->tick();
  EXPECT_EQ(engine_->newest_sequence(), sequence);
  EXPECT_EQ(run(id).progress, progress);
  end(id, FailureCategory::kDone);
}

TEST_F(Attempts, DrainedHostsTakeNothingAndGiveUpTheirRunsWhenAsked) {
  const std::string id = running("a", 4);
  engine_->drain("h1", "repair", true, "", caller_);
  EXPECT_EQ(run(id).stop_intent, StopIntent::kHostDrain);
  answer_checkpoint(id, 9);
  end(id, FailureCategory::kStopped, -1, 9);
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kQueued);
  EXPECT_EQ(run(id).restart_count, 0);
  restart();
  EXPECT_TRUE(engine_->hosts()[0].drained);
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kQueued);
  engine_->undrain("h1", "", caller_);
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kStarting);
  end(id, FailureCategory::kDone);
  EXPECT_EQ(refusal_of([&] { engine_->drain("h9", "", false, "", caller_); }), "HOST_NOT_FOUND");
}

TEST_F(Attempts, ARenamedHostWithLeasesIsRefused) {
  const std::string id = running("a");
  const std::vector<HostSpec> hosts = options_.hosts;
  engine_->require_hosts(hosts);
  engine_.reset();
  for (const bool renamed : {true, false}) {
    if (renamed) options_.hosts[1].name = "h2-new";
    if (!renamed) options_.hosts[1].slots = 1;
    try {
      const Engine refused(*store_, attempts_, checkpoints_, clock_, log_, options_);
      ADD_FAILURE() << "slots would be leased twice";
    } catch (const core::Error& error) {
      EXPECT_EQ(error.kind(), core::ErrorKind::kConfig);
      EXPECT_NE(std::string(error.what()).find(id), std::string::npos) << error.what();
    }
    options_.hosts = hosts;
  }
  restart();
  end(id, FailureCategory::kDone);
  // Without leases a host may have any name.
  options_.hosts[1].name = "h2-new";
  restart();
}

TEST_F(Attempts, WhatCannotBeCleanedUpDrainsTheHostAndChangesNoOutcome) {
  const std::string id = running("a");
  process(id).status.cleanup = "pid 77 cannot be ended";
  end(id, FailureCategory::kDone);
  EXPECT_EQ(state(id), RunState::kSucceeded);
  EXPECT_EQ(run(id).cleanup_state, "pid 77 cannot be ended");
  EXPECT_TRUE(engine_->hosts()[1].drained);
  restart();
  EXPECT_TRUE(engine_->hosts()[1].drained);
}

}  // namespace
}  // namespace lockstep::coordinator::testing
