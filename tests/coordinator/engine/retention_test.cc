#include <fstream>

#include "coordinator/engine/attempt_files.h"
#include "coordinator/model/run_json.h"
#include "tests/coordinator/engine/engine_fixture.h"

// What is kept of runs that have ended, and what goes.
namespace lockstep::coordinator::testing {
namespace {

namespace fs = std::filesystem;

class Retention : public EngineTest {
 protected:
  void restart_with(const RetentionPolicy& policy) {
    options_.retention = policy;
    restart();
  }
  std::string ended(const std::string& name) {
    const std::string id = in_state(RunState::kFailed, name);
    EXPECT_EQ(state(id), RunState::kFailed);
    return id;
  }
  fs::path files(const std::string& id) const {
    return fs::path(options_.state_directory) / "runs" / id;
  }
  bool is_known(const std::string& id) {
    return refusal_of([&] { engine_->find(id); }) != "RUN_NOT_FOUND";
  }
  void forget(const std::string& id, bool archive = false) {
    last_ = engine_->delete_run({id, archive, "delete-" + id}, caller_);
    invariants_.deleted(id);
  }
  // The tick that cleans up comes every few seconds.
  void tick_later(double seconds = 10) {
    clock_.advance(seconds);
    engine_->tick();
  }

  std::string last_;  // where the archived run is
};

TEST_F(Retention, DeletingARunLeavesNothingOfItButItsOutputAndTheAuditRecord) {
  const std::string id = ended("a");
  const std::string other = ended("b");
  fs::create_directories(output("a"));
  const std::int64_t last = run(id).event_sequence;
  ASSERT_TRUE(fs::exists(files(id)));
  forget(id);
  EXPECT_FALSE(is_known(id));
  EXPECT_FALSE(fs::exists(files(id)));
  EXPECT_TRUE(fs::exists(output("a")));
  EXPECT_TRUE(engine_->events(id, 0, 10).empty());
  EXPECT_TRUE(engine_->check_store().ok);
  EXPECT_TRUE(is_known(other));
  EXPECT_EQ(engine_->audit_events(0, 100).back().method, "DeleteRun");
  EXPECT_EQ(engine_->forgotten_sequence(), last);
  restart();
  EXPECT_FALSE(is_known(id));
  EXPECT_TRUE(engine_->check_store().ok);
}

// Numbers of events are never used twice, also when the newest ones were deleted.
TEST_F(Retention, SequencesGoOnAfterTheNewestEventsWereDeleted) {
  const std::string id = ended("a");
  const std::int64_t newest = engine_->newest_sequence();
  forget(id);
  restart();
  EXPECT_EQ(engine_->newest_sequence(), newest);
  const std::string next = submit("b");
  EXPECT_GT(engine_->events(next, 0, 1).front().sequence, newest);
}

TEST_F(Retention, OnlyWhatHasEndedAndIsNotWaitedForCanBeDeleted) {
  const std::string live = running("a");
  EXPECT_EQ(refusal_of([&] { engine_->delete_run({live, false, ""}, caller_); }), "WRONG_STATE");
  end(live, FailureCategory::kDone);
  CreateRequest held = request("b");
  held.after = {live};
  held.hold = true;
  const std::string follower = submit(held);
  EXPECT_EQ(refusal_of([&] { engine_->delete_run({live, false, ""}, caller_); }), "FOLLOWED");
  engine_->cancel({follower, "", false, kSecond, ""}, caller_);
  forget(live);
  EXPECT_EQ(refusal_of([&] { forget(live); }), "") << "the same request again is answered";
  EXPECT_EQ(refusal_of([&] {
              engine_->delete_run({live, false, "new"}, caller_);
            }),
            "RUN_NOT_FOUND");
}

TEST_F(Retention, AnArchivedRunIsWholeInItsDirectory) {
  const std::string id = ended("a");
  const std::string row = canonical_text(*engine_->find(id));
  const std::size_t events = engine_->events(id, 0, 1000).size();
  forget(id, true);
  EXPECT_EQ(last_, options_.state_directory + "/archive/" + id);
  EXPECT_FALSE(is_known(id));
  std::ifstream lines(last_ + "/events.jsonl");
  std::size_t count = 0;
  for (std::string line; std::getline(lines, line); ++count)
    EXPECT_TRUE(nlohmann::json::parse(line).contains("kind"));
  EXPECT_EQ(count, events);
  // As the reader of records finds it, once it lies where a run lies.
  fs::copy(last_, files(id), fs::copy_options::recursive);
  EXPECT_EQ(canonical_text(read_record_file(options_, id)), row);
  EXPECT_EQ(engine_->delete_run({id, true, "delete-" + id}, caller_), last_);
}

// A coordinator that dies between moving the files and the commit has them back at its start.
TEST_F(Retention, ADeletionThatWasCutShortIsUndoneOrFinished) {
  const std::string stays = ended("a");
  const std::string goes = ended("b");
  move_run_files(options_, stays, kArchive);
  forget(goes);
  fs::create_directories(fs::path(options_.state_directory) / kTrash / goes / "logs");
  restart();
  EXPECT_TRUE(fs::exists(files(stays)));
  EXPECT_FALSE(fs::exists(fs::path(options_.state_directory) / kTrash / goes));
}

TEST_F(Retention, OfMoreRunsThanAreKeptTheOldestEndsGo) {
  std::vector<std::string> ids;
  for (const char* name : {"a", "b", "c", "d"})
    ids.push_back(ended(name));
  const std::string live = running("e");
  RetentionPolicy two;
  two.runs = 2;
  restart_with(two);
  for (int i = 0; i < 2; ++i)
    invariants_.deleted(ids[static_cast<std::size_t>(i)]);
  tick_later();
  EXPECT_FALSE(is_known(ids[0]));
  EXPECT_FALSE(is_known(ids[1]));
  EXPECT_TRUE(is_known(ids[2]));
  EXPECT_TRUE(is_known(ids[3]));
  EXPECT_EQ(state(live), RunState::kRunning);
  EXPECT_FALSE(fs::exists(files(ids[0])));
  const AuditEvent audit = engine_->audit_events(0, 1000).back();
  EXPECT_EQ(audit.method, "Retention");
  EXPECT_NE(audit.before_json.find(ids[0]), std::string::npos);
  EXPECT_TRUE(engine_->check_store().ok);
  end(live, FailureCategory::kDone);
  invariants_.deleted(ids[2]);
  tick_later();
  EXPECT_FALSE(is_known(ids[2])) << "the run that ended since is one of the two";
}

TEST_F(Retention, AgeIsMeasuredOnTheSteadyClock) {
  RetentionPolicy day;
  day.age_ns = 86400 * kSecond;
  restart_with(day);
  const std::string id = ended("a");
  clock_.set_wall(40 * 86400);
  tick_later();
  EXPECT_TRUE(is_known(id)) << "somebody set the wall clock";
  invariants_.deleted(id);
  tick_later(86400);
  EXPECT_FALSE(is_known(id));
}

TEST_F(Retention, LogsOfOldAttemptsGoAndTheRunStays) {
  RetentionPolicy hour;
  hour.logs_ns = 3600 * kSecond;
  restart_with(hour);
  const std::string id = ended("a");
  const fs::path logs = files(id) / "attempts/1/logs";
  fs::create_directories(logs);
  tick_later();
  EXPECT_TRUE(fs::exists(logs));
  tick_later(3600);
  EXPECT_FALSE(fs::exists(logs));
  EXPECT_TRUE(fs::exists(logs.parent_path()));
  EXPECT_TRUE(is_known(id));
}

TEST_F(Retention, OfManyAttemptsTheFilesOfTheNewestStay) {
  RetentionPolicy one;
  one.attempts = 1;
  restart_with(one);
  const std::string id = running("a");
  end(id, FailureCategory::kHostLost, -1, 3);
  clock_.advance(600);
  engine_->tick();
  engine_->tick();
  ASSERT_EQ(state(id), RunState::kStarting);
  register_agent(id);
  end(id, FailureCategory::kNumeric, 0, 4);
  tick_later();
  EXPECT_EQ(attempts_.removed, (std::vector<int>{1}));
  tick_later();
  EXPECT_EQ(attempts_.removed.size(), 1U) << "and only once";
}

TEST_F(Retention, GoesThroughManyRunsInAFewTransactions) {
  RetentionPolicy ten;
  ten.runs = 10;
  restart_with(ten);
  std::vector<std::string> ids;
  for (int i = 0; i < 150; ++i) {
    ids.push_back(submit("r" + std::to_string(i)));
    engine_->cancel({ids.back(), "", false, kSecond, ""}, caller_);
  }
  for (int i = 0; i < 140; ++i)
    invariants_.deleted(ids[static_cast<std::size_t>(i)]);
  tick_later();
  engine_->tick();
  EXPECT_EQ(engine_->list().size(), 10U);
  EXPECT_TRUE(is_known(ids.back()));
}

}  // namespace
}  // namespace lockstep::coordinator::testing
