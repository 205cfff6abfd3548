#include <filesystem>
#include <fstream>

#include "tests/coordinator/engine/engine_fixture.h"

// The store is lost, or an older one is put back, while attempts run: nothing is killed, nothing is
// started twice.
namespace lockstep::coordinator::testing {
namespace {

namespace fs = std::filesystem;

class Recovery : public EngineTest {
 protected:
  fs::path state_file(const std::string& name) const { return directory_ / ("state/" + name); }

  void stop_engine() {
    engine_.reset();
    store_.reset();
  }
  // The next coordinator finds no store.
  void lose_store() {
    stop_engine();
    for (const char* name : {"store.db", "store.db-wal", "store.db-shm"})
      fs::remove(state_file(name));
    invariants_.store_lost();
    start();
  }
  void back_up() {
    fs::remove(directory_ / "copy.db");
    engine_->backup(directory_ / "copy.db", caller_);
  }
  void restore() {
    stop_engine();
    for (const char* name : {"store.db-wal", "store.db-shm"})
      fs::remove(state_file(name));
    fs::copy_file(directory_ / "copy.db", state_file("store.db"),
                  fs::copy_options::overwrite_existing);
    start();
  }
  void damage_record(const std::string& id) {
    std::ofstream(state_file("runs/" + id + "/record.json"), std::ios::app) << "x";
  }
  // A run that needs the slots which that one has.
  std::string submit_beside(const std::string& id, const std::string& name) {
    CreateRequest other = request(name);
    other.resources.hosts = {attempts_.entries.at(0).spec.hosts.at(0).host};
    EXPECT_EQ(attempts_.entries.at(0).spec.attempt.run, id);
    return submit(other);
  }
  std::string problem_of(const std::string& id) {
    for (const PendingReason& unknown : engine_->unknown_attempts()) {
      if (unknown.reason == id) return unknown.message;
    }
    return "";
  }
  void expect_untouched(const AttemptRef& attempt) {
    for (int i = 0; i < 3; ++i) {
      engine_->tick();
      clock_.advance(200);
    }
    ASSERT_NE(attempts_.find(attempt), nullptr);
    EXPECT_TRUE(attempts_.find(attempt)->stops.empty()) << "live training was stopped";
  }
};

TEST_F(Recovery, AnEmptyStoreAdoptsWhatRuns) {
  CreateRequest labelled = request("a");
  labelled.labels = {{"team", "x"}};
  labelled.priority = 7;
  const std::string id = submit(labelled);
  bring_up(id);
  engine_->update({id, "", "later", {}, "a note", {}, {}, {}, ""}, caller_);
  beat(id, 7);
  const AttemptRef attempt = ref(id);
  const RunPtr before = engine_->find(id);
  lose_store();
  EXPECT_EQ(problem_of(id), "");
  expect_untouched(attempt);
  EXPECT_EQ(ref(id), attempt);
  EXPECT_EQ(state(id), RunState::kRunning);
  EXPECT_EQ(run(id).labels, before->run.labels);
  EXPECT_EQ(run(id).notes, "a note");
  EXPECT_EQ(run(id).display_name, "later");
  EXPECT_EQ(run(id).priority, 7);
  EXPECT_EQ(run(id).owner, "local");
  EXPECT_EQ(run(id).texts->resolved_config, before->run.texts->resolved_config);
  // Its agent goes on speaking, and its slots and its fence are taken.
  beat(id, 9);
  EXPECT_EQ(run(id).progress.step, 9);
  const std::string other = submit_beside(id, "b");
  engine_->tick();
  EXPECT_EQ(state(other), RunState::kQueued) << "its slots are leased";
  EXPECT_EQ(refusal_of([&] { submit("a"); }), "OUTPUT_IN_USE");
  end(id, FailureCategory::kRankSignal, 1, 9);
  EXPECT_EQ(state(id), RunState::kBackoff);
  clock_.advance(20);
  engine_->tick();
  engine_->tick();
  EXPECT_GT(engine_->find(other)->current() == nullptr ? ref(id).fence : ref(other).fence,
            attempt.fence);
}

// A coordinator that knows the run as it was when the copy was made: queued, starting, running.
TEST_F(Recovery, AnOlderStoreAdoptsWhatWasStartedSince) {
  const std::string id = submit("a");
  back_up();
  bring_up(id);
  const AttemptRef first = ref(id);
  restore();
  expect_untouched(first);
  EXPECT_EQ(ref(id), first);
  EXPECT_EQ(state(id), RunState::kRunning);
  EXPECT_EQ(attempts_.entries.size(), 1U) << "it was started a second time";

  back_up();
  end(id, FailureCategory::kRankSignal, 1, 3);
  clock_.advance(20);
  bring_up(id);
  const AttemptRef second = ref(id);
  EXPECT_EQ(second.number, 2);
  restore();
  expect_untouched(second);
  EXPECT_EQ(ref(id), second);
  EXPECT_EQ(run(id).restart_count, 1);
  end(id, FailureCategory::kDone);
  EXPECT_EQ(state(id), RunState::kSucceeded);
}

TEST_F(Recovery, AnOlderStoreThatKnowsTheStartOnlyTakesAHeartbeatForTheRegistration) {
  const std::string id = submit("a");
  engine_->tick();
  back_up();
  register_agent(id);
  beat(id, 5);
  restore();
  EXPECT_EQ(state(id), RunState::kStarting);
  beat(id, 6);
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kRunning);
  expect_untouched(ref(id));
  end(id, FailureCategory::kDone);
}

// It ended while nobody looked, and the older store would start it anew.
TEST_F(Recovery, AnOlderStoreTakesTheEndOfWhatItDoesNotKnow) {
  const std::string id = submit("a");
  back_up();
  bring_up(id);
  FakeAttempts::Entry& entry = process(id);
  entry.status.phase = AttemptPhase::kEnded;
  entry.status.exit.category = FailureCategory::kDone;
  entry.status.end_time_ns = clock_.now_ns();
  restore();
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kSucceeded);
  EXPECT_EQ(attempts_.entries.size(), 1U);
}

TEST_F(Recovery, WhatIsNotWholeIsNamedAndLeftAlone) {
  const std::string id = running("a");
  const AttemptRef attempt = ref(id);
  invariants_.damaged(id);
  damage_record(id);
  lose_store();
  EXPECT_NE(problem_of(id).find("attempt 1 of run " + id + " is alive"), std::string::npos);
  EXPECT_NE(problem_of(id).find("admin end " + id), std::string::npos);
  EXPECT_EQ(refusal_of([&] { engine_->find(id); }), "UNKNOWN_ATTEMPT");
  EXPECT_FALSE(engine_->check_store().ok);
  expect_untouched(attempt);
  // Its slots and its output are taken.
  EXPECT_EQ(refusal_of([&] { submit("a"); }), "OUTPUT_IN_USE");
  const std::string big = submit_beside(attempt.run, "b");
  engine_->tick();
  EXPECT_EQ(state(big), RunState::kQueued);
  // A person takes it up as it was launched.
  const RunPtr adopted = engine_->adopt(id, "adopt-1", caller_);
  EXPECT_EQ(adopted->run.state, RunState::kStarting);
  EXPECT_EQ(engine_->adopt(id, "adopt-1", caller_)->run.id, id) << "the same call again";
  EXPECT_EQ(problem_of(id), "");
  EXPECT_TRUE(engine_->check_store().ok);
  beat(id, 8);
  engine_->tick();
  EXPECT_EQ(state(id), RunState::kRunning);
  EXPECT_EQ(ref(id), attempt);
  end(id, FailureCategory::kDone);
  EXPECT_EQ(state(id), RunState::kSucceeded);
  engine_->tick();
  EXPECT_EQ(state(big), RunState::kStarting);
}

TEST_F(Recovery, APersonEndsAnUnknownAttempt) {
  const std::string id = running("a");
  const AttemptRef attempt = ref(id);
  invariants_.damaged(id);
  damage_record(id);
  lose_store();
  EXPECT_EQ(refusal_of([&] { engine_->end_unknown("nothing", false, "", caller_); }),
            "RUN_NOT_FOUND");
  engine_->end_unknown(id, false, "", caller_);
  engine_->tick();
  ASSERT_EQ(attempts_.find(attempt)->stops.size(), 1U);
  EXPECT_FALSE(attempts_.find(attempt)->stops[0].force) << "with a checkpoint";
  attempts_.find(attempt)->status.phase = AttemptPhase::kEnded;
  engine_->tick();
  EXPECT_EQ(attempts_.find(attempt), nullptr) << "its files are out of the way";
  EXPECT_TRUE(engine_->unknown_attempts().empty());
}

// A run that the store has queued while an attempt of it lives that cannot be adopted.
TEST_F(Recovery, ARunWithAnUnknownAttemptOfItsOwnIsNotStarted) {
  const std::string id = submit("a");
  back_up();
  bring_up(id);
  const AttemptRef attempt = ref(id);
  invariants_.damaged(id);
  damage_record(id);
  restore();
  expect_untouched(attempt);
  EXPECT_EQ(state(id), RunState::kQueued);
  EXPECT_EQ(engine_->explain(id).reasons.at(0).reason, "UNKNOWN_ATTEMPT");
  engine_->adopt(id, "", caller_);
  EXPECT_EQ(ref(id), attempt);
  EXPECT_EQ(run(id).display_name, "a");
  end(id, FailureCategory::kDone);
  EXPECT_EQ(state(id), RunState::kSucceeded);
}

TEST_F(Recovery, AnAttemptThatCannotBeReadIsNamedToo) {
  const std::string id = running("a");
  const AttemptRef attempt = ref(id);
  invariants_.damaged(id);
  process(id).unreadable = true;
  fs::remove(state_file("runs/" + id + "/record.json"));
  lose_store();
  EXPECT_NE(problem_of(id), "");
  EXPECT_EQ(refusal_of([&] { engine_->adopt(id, "", caller_); }), "CANNOT_ADOPT");
  expect_untouched(attempt);
  attempts_.entries.clear();
}

// Slots that two runs would have, or a host that is no more.
TEST_F(Recovery, WhatDoesNotFitIntoTheConfigurationIsNotAdopted) {
  const std::string id = running("a");
  const AttemptRef attempt = ref(id);
  invariants_.damaged(id);
  stop_engine();
  for (const char* name : {"store.db", "store.db-wal", "store.db-shm"})
    fs::remove(state_file(name));
  invariants_.store_lost();
  for (HostSpec& host : options_.hosts)
    host.name += "-new";
  start();
  EXPECT_NE(problem_of(id).find("which the configuration does not have"), std::string::npos);
  expect_untouched(attempt);
  EXPECT_EQ(refusal_of([&] { engine_->adopt(id, "", caller_); }), "CANNOT_ADOPT");
  attempts_.entries.clear();
}

}  // namespace
}  // namespace lockstep::coordinator::testing
