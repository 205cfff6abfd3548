#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "coordinator/model/failpoint.h"
#include "tests/coordinator/engine/engine_fixture.h"

// The coordinator dies; its store and the processes stay.
namespace lockstep::coordinator::testing {
namespace {

class Restart : public EngineTest {
 protected:
  // Runs `act` in a child process that has the store for itself, with failpoints armed; whether the
  // child was killed by one.
  bool dies(const std::string& failpoints, const std::function<void()>& act) {
    engine_.reset();
    store_.reset();
    const pid_t child = ::fork();
    if (child == 0) {
      start();
      arm_failpoints(failpoints);
      act();
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    start();
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
  }
};

TEST_F(Restart, F1_SubmitsSurviveDeathAroundTheirCommitAndAreNeverDoubled) {
  const CreateRequest before = request("before");
  EXPECT_TRUE(dies("store.before_commit=crash", [&] { engine_->create(before, caller_); }));
  EXPECT_TRUE(engine_->list().empty()) << "not acknowledged, not committed";
  EXPECT_FALSE(engine_->create(before, caller_).replayed);

  const CreateRequest after = request("after");
  EXPECT_TRUE(dies("store.after_commit=crash", [&] { engine_->create(after, caller_); }));
  EXPECT_EQ(engine_->list().size(), 2U) << "committed, and the client does not know";
  EXPECT_TRUE(engine_->create(after, caller_).replayed);
  EXPECT_EQ(engine_->list().size(), 2U);
}

// Whatever the commit at which it dies, the same calls made again lead to the same end.
TEST_F(Restart, F2_DeathAtEveryCommitOfARunsLifeLosesNothing) {
  for (const char* site : {"store.before_commit", "store.after_commit"}) {
    for (int pass = 1; pass <= 6; ++pass) {
      SCOPED_TRACE(std::string(site) + " pass " + std::to_string(pass));
      const std::string name = std::string("a") + site[6] + std::to_string(pass);
      const auto life = [&] {
        CreateRequest made = request(name);
        const std::string id = engine_->create(made, caller_).run->run.id;
        engine_->update({id, "", "x", {}, {}, 3, {}, {}, "update-" + name}, caller_);
        engine_->pause({id, "", "pause-" + name}, caller_);
        engine_->resume(id, "resume-" + name, caller_);
        engine_->cancel({id, "", false, kSecond, "cancel-" + name}, caller_);
      };
      const bool died = dies(std::string(site) + "@" + std::to_string(pass) + "=crash", life);
      EXPECT_EQ(died, pass <= 5);
      life();  // the client tries again
      int found = 0;
      for (const RunPtr& record : engine_->list()) {
        if (record->run.output != output(name)) continue;
        ++found;
        EXPECT_EQ(record->run.state, RunState::kCancelled);
        EXPECT_EQ(record->run.priority, 3);
      }
      EXPECT_EQ(found, 1);
      check();
    }
  }
}

TEST_F(Restart, AnAttemptThatWasCommittedButNotStartedIsStarted) {
  const std::string id = submit("a");
  EXPECT_TRUE(dies("engine.before_launch=crash", [&] { engine_->tick(); }));
  EXPECT_EQ(state(id), RunState::kStarting);
  EXPECT_TRUE(attempts_.entries.empty());
  const AttemptRef committed = ref(id);
  engine_->tick();
  ASSERT_EQ(attempts_.entries.size(), 1U);
  EXPECT_EQ(attempts_.entries[0].spec.attempt, committed) << "the same attempt, the same fence";
  const std::string secret =
      lockstep::testing::read_file(attempts_.entries[0].spec.agent_token_file);
  EXPECT_EQ(engine_->authenticate_agent(secret), committed);
  register_agent(id);
  end(id, FailureCategory::kDone);
  EXPECT_EQ(state(id), RunState::kSucceeded);
}

// The launch was on record, and the supervisor had not yet said who it is: it costs no restart.
TEST_F(Restart, AnAttemptOfWhichNothingHasRunIsStartedAgainAsItIs) {
  const std::string id = submit("a");
  engine_->tick();
  const AttemptRef committed = ref(id);
  attempts_.entries.clear();  // the coordinator died before the fork
  restart();
  engine_->tick();
  ASSERT_EQ(attempts_.entries.size(), 1U);
  EXPECT_EQ(attempts_.entries[0].spec.attempt, committed);
  EXPECT_EQ(run(id).restart_count, 0);
  register_agent(id);
  // What had run and is gone is another thing.
  attempts_.entries.clear();
  restart();
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kBackoff);
  EXPECT_EQ(run(id).result->category, FailureCategory::kCoordinator);
}

TEST_F(Restart, F3_ARunningAttemptIsFoundAgainAndGoesOn) {
  const std::string id = running("a");
  beat(id, 7);
  const AttemptRef before = ref(id);
  restart();
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kRunning);
  EXPECT_EQ(ref(id), before);
  EXPECT_EQ(attempts_.entries.size(), 1U);
  EXPECT_TRUE(process(id).stops.empty());
  beat(id, 9);
  engine_->tick();
  EXPECT_EQ(run(id).progress.step, 9);
  EXPECT_EQ(run(id).progress.total_steps, 100);
  EXPECT_FALSE(run(id).suspect);
  end(id, FailureCategory::kDone);
  EXPECT_EQ(state(id), RunState::kSucceeded);
}

TEST_F(Restart, F3_AnEndWhileTheCoordinatorWasDownIsNotLost) {
  const std::string id = running("a");
  FakeAttempts::Entry& entry = process(id);
  entry.status.phase = AttemptPhase::kEnded;
  entry.status.exit.category = FailureCategory::kNumeric;
  entry.status.exit.message = "loss is nan";
  entry.status.end_time_ns = clock_.now_ns() + kSecond;
  clock_.advance(60);
  restart();
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kFailed);
  EXPECT_EQ(engine_->find(id)->attempts[0].end_time_ns, entry.status.end_time_ns);
}

TEST_F(Restart, AStopGoesOnWithTheSameOrder) {
  const std::string id = running("a");
  engine_->cancel({id, "enough", false, 9 * kSecond, ""}, caller_);
  restart();
  engine_->tick();
  ASSERT_EQ(process(id).stops.size(), 1U);
  EXPECT_EQ(process(id).stops[0].grace_ns, 9 * kSecond);
  end(id, FailureCategory::kStopped);
  EXPECT_EQ(state(id), RunState::kCancelled);
}

TEST_F(Restart, APauseGoesOn) {
  const std::string id = running("a");
  engine_->pause({id, "", ""}, caller_);
  restart();
  answer_checkpoint(id, 5);
  EXPECT_EQ(state(id), RunState::kStopping);
  restart();
  end(id, FailureCategory::kStopped, -1, 5);
  EXPECT_EQ(state(id), RunState::kPaused);
}

TEST_F(Restart, I3_AnAttemptThatTheStoreHasAsEndedIsEnded) {
  const std::string id = running("a");
  const AttemptRef ended = ref(id);
  end(id, FailureCategory::kRankSignal, 0, 1);
  attempts_.find(ended)->status.phase = AttemptPhase::kRunning;  // it was not the end of it
  restart();
  engine_->tick();
  FakeAttempts::Entry& found = *attempts_.find(ended);
  ASSERT_EQ(found.stops.size(), 1U);
  EXPECT_TRUE(found.stops[0].force);
  found.status.phase = AttemptPhase::kEnded;
  engine_->tick();
}

TEST_F(Restart, TokensDrainsAndFencesSurvive) {
  const CreatedToken made = engine_->create_token({"ci", {"submit", "read"}, 0, ""}, caller_);
  const std::string id = running("a");
  const std::int64_t fence = ref(id).fence;
  end(id, FailureCategory::kHostLost);
  restart();
  EXPECT_EQ(engine_->authenticate(made.secret)->name, "ci");
  clock_.advance(20);
  engine_->tick();
  EXPECT_GT(ref(id).fence, fence);
  end(id, FailureCategory::kDone);
}

TEST_F(Restart, F14_AStoreThatCannotBeWrittenRefusesAndHealsAlone) {
  const std::string id = running("a");
  arm_failpoints("store.before_commit=error");
  EXPECT_EQ(refusal_of([&] { submit("b"); }), "STORE_ERROR");
  EXPECT_EQ(beat(id, 5).control, Control::kNone) << "what runs goes on";
  EXPECT_EQ(run(id).progress.step, 5);
  FakeAttempts::Entry& entry = process(id);
  entry.status.phase = AttemptPhase::kEnded;
  entry.status.exit.category = FailureCategory::kDone;
  EXPECT_THROW(engine_->tick(), EngineError);
  EXPECT_EQ(state(id), RunState::kRunning) << "nothing is seen that is not durable";
  EXPECT_FALSE(engine_->store_healthy());
  disarm_failpoints();
  clock_.advance(2);
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kSucceeded);
  EXPECT_TRUE(engine_->store_healthy());
}

}  // namespace
}  // namespace lockstep::coordinator::testing
