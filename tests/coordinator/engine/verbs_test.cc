#include <map>

#include "tests/coordinator/engine/engine_fixture.h"

namespace lockstep::coordinator::testing {
namespace {

using S = RunState;

const std::vector<RunState> kStates = {S::kWaiting,  S::kQueued,   S::kStarting, S::kRunning,
                                       S::kStopping, S::kBackoff,  S::kPaused,   S::kSucceeded,
                                       S::kFailed,   S::kCancelled};

// The state after the verb; nothing: refused with WRONG_STATE.
using Outcome = std::optional<RunState>;
const Outcome kNo = std::nullopt;

struct Row {
  Outcome cancel, pause, resume, checkpoint;
};

const std::map<RunState, Row>& outcomes() {
  static const std::map<RunState, Row> table = {
      {S::kWaiting, {S::kCancelled, S::kWaiting, S::kQueued, kNo}},  // held
      {S::kQueued, {S::kCancelled, S::kWaiting, S::kQueued, kNo}},
      {S::kStarting, {S::kStopping, S::kStarting, S::kStarting, kNo}},
      {S::kRunning, {S::kStopping, S::kRunning, S::kRunning, S::kRunning}},
      {S::kStopping, {S::kStopping, kNo, kNo, kNo}},  // being cancelled
      {S::kBackoff, {S::kCancelled, S::kWaiting, S::kBackoff, kNo}},
      {S::kPaused, {S::kCancelled, S::kPaused, S::kQueued, kNo}},
      {S::kSucceeded, {S::kSucceeded, kNo, kNo, kNo}},
      {S::kFailed, {S::kFailed, kNo, kNo, kNo}},
      {S::kCancelled, {S::kCancelled, kNo, kNo, kNo}},
  };
  return table;
}

class Verbs : public EngineTest {
 protected:
  using Act = std::function<RunPtr(const std::string& id, const std::string& request_id)>;

  // Each verb twice with the same request id: the second call changes nothing more.
  void check(RunState from, const char* verb, const Outcome& outcome, const Act& act) {
    SCOPED_TRACE(std::string(to_string(from)) + " " + verb);
    const std::string name = std::string(to_string(from)) + verb;
    const std::string id = in_state(from, name);
    ASSERT_EQ(state(id), from);
    const std::string request = "r-" + name;
    if (!outcome) {
      const std::int64_t before = run(id).run_sequence;
      EXPECT_EQ(refusal_of([&] { act(id, request); }), "WRONG_STATE");
      EXPECT_EQ(run(id).run_sequence, before);
      finish(id);
      return;
    }
    EXPECT_EQ(act(id, request)->run.state, *outcome);
    invariants_.acknowledged(caller_.name, request, id);
    const std::int64_t sequence = run(id).run_sequence;
    EXPECT_EQ(act(id, request)->run.state, *outcome);
    EXPECT_EQ(run(id).run_sequence, sequence) << "a repeated request changed something";
    finish(id);
  }

  void finish(const std::string& id) {
    if (is_terminal(state(id))) return;
    engine_->cancel({id, "", true, kSecond, ""}, caller_);
    if (has_attempt(state(id))) end(id, FailureCategory::kRankSignal);
    EXPECT_EQ(state(id), RunState::kCancelled);
  }
};

TEST_F(Verbs, F6_CancelInEveryState) {
  for (const RunState from : kStates) {
    check(from, "cancel", outcomes().at(from).cancel,
          [&](const std::string& id, const std::string& request) {
            return engine_->cancel({id, "enough", false, kSecond, request}, caller_);
          });
  }
}

TEST_F(Verbs, PauseInEveryState) {
  for (const RunState from : kStates) {
    check(from, "pause", outcomes().at(from).pause,
          [&](const std::string& id, const std::string& request) {
            return engine_->pause({id, "later", request}, caller_);
          });
  }
}

TEST_F(Verbs, ResumeInEveryState) {
  for (const RunState from : kStates) {
    check(from, "resume", outcomes().at(from).resume,
          [&](const std::string& id, const std::string& request) {
            return engine_->resume(id, request, caller_);
          });
  }
}

TEST_F(Verbs, CheckpointInEveryState) {
  for (const RunState from : kStates) {
    check(from, "checkpoint", outcomes().at(from).checkpoint,
          [&](const std::string& id, const std::string& request) {
            return engine_->checkpoint(id, request, caller_);
          });
  }
}

TEST_F(Verbs, UpdateInEveryState) {
  for (const RunState from : kStates) {
    check(from, "update", is_terminal(from) ? kNo : Outcome(from),
          [&](const std::string& id, const std::string& request) {
            UpdateRequest update;
            update.run = id;
            update.notes = "a note";
            update.request_id = request;
            return engine_->update(update, caller_);
          });
  }
}

TEST_F(Verbs, RetryInEveryStateMakesANewRunOrIsRefused) {
  for (const RunState from : kStates) {
    SCOPED_TRACE(to_string(from));
    const std::string name = std::string(to_string(from)) + "retry";
    const std::string id = in_state(from, name);
    const auto retry = [&] { return engine_->retry({id, {}, false, "r-" + name}, caller_)->run; };
    if (!is_terminal(from)) {
      EXPECT_EQ(refusal_of(retry), "WRONG_STATE");
      finish(id);
      continue;
    }
    const auto child = retry();
    EXPECT_NE(child.id, id);
    EXPECT_EQ(child.parent_run, id);
    EXPECT_EQ(child.output, run(id).output);
    EXPECT_EQ(child.resume_from, "auto");
    EXPECT_EQ(retry().id, child.id) << "the same request id made a second run";
    finish(child.id);
  }
}

TEST_F(Verbs, F6_CancelReachesTheProcessesAndTheirEndIsTheRunsEnd) {
  const std::string id = running("a");
  engine_->cancel({id, "enough", false, 7 * kSecond, ""}, caller_);
  engine_->tick();
  ASSERT_EQ(process(id).stops.size(), 1U);
  EXPECT_FALSE(process(id).stops[0].force);
  EXPECT_EQ(process(id).stops[0].grace_ns, 7 * kSecond);
  EXPECT_EQ(beat(id, 3).control, Control::kCheckpointAndExit);
  engine_->cancel({id, "now", true, kSecond, ""}, caller_);
  engine_->tick();
  ASSERT_EQ(process(id).stops.size(), 2U);
  EXPECT_TRUE(process(id).stops[1].force);
  engine_->tick();
  EXPECT_EQ(process(id).stops.size(), 2U) << "told again without need";
  end(id, FailureCategory::kDone);  // it had just finished
  EXPECT_EQ(state(id), RunState::kCancelled);
}

TEST_F(Verbs, F6_CancelIsTakenWhileTheSupervisorCannotBeReached) {
  const std::string id = running("a");
  attempts_.unreachable = true;
  engine_->cancel({id, "", false, kSecond, ""}, caller_);
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kStopping);
  EXPECT_TRUE(process(id).stops.empty());
  attempts_.unreachable = false;
  engine_->tick();
  EXPECT_EQ(process(id).stops.size(), 1U);
  end(id, FailureCategory::kStopped);
}

TEST_F(Verbs, UpdateHonoursTheEtag) {
  const std::string id = submit("a");
  UpdateRequest update;
  update.run = id;
  update.etag = etag_of(run(id));
  update.priority = 9;
  update.labels.emplace()["team"] = "x";
  EXPECT_EQ(engine_->update(update, caller_)->run.priority, 9);
  update.priority = 10;
  EXPECT_EQ(refusal_of([&] { engine_->update(update, caller_); }), "ETAG_MISMATCH");
  EXPECT_EQ(run(id).priority, 9);
  EXPECT_EQ(run(id).labels.at("team"), "x");
}

TEST_F(Verbs, ARequestIdIsNotUsedForAnotherCall) {
  const std::string id = submit("a");
  engine_->pause({id, "", "same"}, caller_);
  EXPECT_EQ(refusal_of([&] { engine_->resume(id, "same", caller_); }), "REQUEST_ID_REUSED");
  EXPECT_EQ(refusal_of([&] {
              engine_->pause({id, "other reason", "same"}, caller_);
            }),
            "REQUEST_ID_REUSED");
  const Caller other{"someone", ""};  // ids of different callers have nothing to do with each other
  EXPECT_EQ(engine_->resume(id, "same", other)->run.state, RunState::kQueued);
}

TEST_F(Verbs, RunsAreFoundByUniquePrefix) {
  const std::string a = submit("a");
  EXPECT_EQ(run("runs/" + a).id, a);
  EXPECT_EQ(run(a.substr(0, 20)).id, a);
  const std::string b = submit("b");
  EXPECT_EQ(refusal_of([&] { run("0"); }), "AMBIGUOUS_RUN");
  EXPECT_EQ(refusal_of([&] { run("zzz"); }), "RUN_NOT_FOUND");
  EXPECT_EQ(refusal_of([&] { run(""); }), "RUN_NOT_FOUND");
  EXPECT_LT(a, b);
}

}  // namespace
}  // namespace lockstep::coordinator::testing
