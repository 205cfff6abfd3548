#include "coordinator/store/store.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <memory>

#include "coordinator/model/run_json.h"
#include "coordinator/model/sha256.h"
#include "coordinator/store/schema.h"
#include "core/error.h"
#include "tests/coordinator/model/run_fixture.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::coordinator::testing {
namespace {

class StoreTest : public ::testing::Test {
 protected:
  std::filesystem::path state() const { return directory_ / "state"; }

  // A run with these events beside "submitted", as the engine would store it.
  RunPtr put(Store& store, const std::string& id, RunState to = RunState::kRunning) {
    RunChange source = run_in(to);
    auto texts = std::make_shared<RunTexts>();
    texts->config_yaml = "a: 1";
    texts->resolved_config = "a: 1 # of " + id;
    auto submitted = submitted_run(id);
    submitted.config_sha256 = sha256_hex(texts->resolved_config);
    RunChange change({}, kSecond);
    for (const Event& event : source.events()) {
      nlohmann::json context = event.context;
      if (event.kind == EventKind::kSubmitted) context = {{"run", submitted}};
      change.add(event.kind, event.actor, context);
    }
    change.set_texts(texts);
    change.number(store.next_sequence());
    StoreWrite write;
    write.events = change.events();
    auto record = std::make_shared<RunRecord>(change.record());
    write.rows = {record};
    write.new_texts = true;
    write.request = ServedRequest{"local", "request-" + id, "CreateRun", "digest", id};
    AuditRow audit;
    audit.actor = "local";
    audit.method = "CreateRun";
    audit.resource = id;
    audit.result = "OK";
    write.audit = audit;
    store.commit(write);
    return record;
  }

  // Changes the store behind its back.
  void damage(const std::string& sql) {
    Database database(state() / "store.db", Database::Mode::kWrite);
    database.execute(sql);
  }

  lockstep::testing::TemporaryDirectory directory_;
};

// fork() gives a child all descriptors, and with them locks, until it executes its program.
TEST_F(StoreTest, AChildThatHasNotExecutedItsProgramYetHoldsNobodyUp) {
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t coordinator = ::fork();
  if (coordinator == 0) {
    const Store store(state());
    const pid_t child = ::fork();
    if (child == 0) {
      const char byte = 1;
      if (::write(ready[1], &byte, 1) != 1) ::_exit(1);
      ::usleep(300'000);
      ::_exit(0);
    }
    ::raise(SIGKILL);
  }
  int status = 0;
  ::waitpid(coordinator, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status));
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  EXPECT_NO_THROW(Store{state()});
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST_F(StoreTest, I1_WhatWasCommittedIsReadBack) {
  RunPtr put_record;
  {
    Store store(state());
    put_record = put(store, "0a");
    put(store, "0b", RunState::kSucceeded);
  }
  Store store(state());
  const StoreContents contents = store.load();
  ASSERT_EQ(contents.runs.size(), 2U);
  EXPECT_EQ(canonical_text(contents.runs[0]), canonical_text(*put_record));
  EXPECT_EQ(*contents.runs[0].run.texts, *put_record->run.texts);
  EXPECT_TRUE(contents.quarantined.empty());
  EXPECT_EQ(store.find_request("local", "request-0a")->resource, "0a");
  EXPECT_EQ(store.find_request("other", "request-0a"), std::nullopt);
  const auto events = store.events("0a", 0, 100);
  ASSERT_FALSE(events.empty());
  EXPECT_EQ(events.front().kind, EventKind::kSubmitted);
  EXPECT_EQ(store.events("0a", events.front().sequence, 2).size(), 2U);
  EXPECT_EQ(store.next_sequence(), store.events("", 0, 1000).back().sequence + 1);
  const StoreReport report = store.check();
  EXPECT_TRUE(report.problems.empty());
  EXPECT_EQ(report.runs, 2);
  EXPECT_EQ(report.audit_events, 2);
}

TEST_F(StoreTest, ASecondCoordinatorIsRefused) {
  const Store store(state());
  try {
    const Store second(state());
    FAIL() << "not refused";
  } catch (const core::Error& error) {
    EXPECT_EQ(error.kind(), core::ErrorKind::kConfig);
    EXPECT_NE(std::string(error.what()).find("another coordinator"), std::string::npos);
  }
}

TEST_F(StoreTest, TheStateDirectoryIsPrivate) {
  const Store store(state());
  const auto others = std::filesystem::perms::group_all | std::filesystem::perms::others_all;
  EXPECT_EQ(std::filesystem::status(state()).permissions() & others, std::filesystem::perms::none);
  EXPECT_EQ(std::filesystem::status(state() / "store.db").permissions() & others,
            std::filesystem::perms::none);
}

TEST_F(StoreTest, ACommitIsAllOrNothing) {
  Store store(state());
  const RunPtr first = put(store, "0a");
  StoreWrite twice;
  twice.request = ServedRequest{"local", "request-0a", "CreateRun", "digest", "0a"};
  twice.hosts = {{"h1", true, "x"}};
  AuditRow audit;
  audit.method = "DrainHost";
  twice.audit = audit;
  EXPECT_THROW(store.commit(twice), StoreError);  // the request id is there already
  EXPECT_TRUE(store.load().hosts.empty());
  EXPECT_EQ(store.audit(0, 10).size(), 1U);
  put(store, "0b");
  EXPECT_TRUE(store.check().problems.empty()) << "the chain goes on where it was";
}

TEST_F(StoreTest, F15_OneCorruptRunIsQuarantinedAndTheOthersStart) {
  struct Damage {
    const char* sql;
    const char* what;
  };
  const std::vector<Damage> damages = {
      {"UPDATE runs SET record = replace(record, 'RUNNING', 'QUEUED') WHERE id = '0b'", "hash"},
      {"UPDATE runs SET record = substr(record, 2) WHERE id = '0b'", "hash"},
      {"UPDATE runs SET record = X'FF00' || record WHERE id = '0b'", "hash"},
      {"DELETE FROM run_texts WHERE run_id = '0b'", "configuration is missing"},
      {"UPDATE run_texts SET resolved_config = 'b: 2' WHERE run_id = '0b'", "configuration"},
      {"DELETE FROM events WHERE run_id = '0b' AND run_sequence = 2", "gap"},
      {"DELETE FROM events WHERE run_id = '0b' AND run_sequence = 5", "lead to"},
      {"UPDATE events SET context = '{' WHERE run_id = '0b' AND run_sequence = 3", "parse"},
      {"UPDATE events SET kind = 'nonsense' WHERE run_id = '0b' AND run_sequence = 3", "kind"},
      {"UPDATE events SET time_ns = 7 WHERE run_id = '0b' AND run_sequence = 5", "lead to"},
  };
  int number = 0;
  for (const Damage& each : damages) {
    SCOPED_TRACE(each.sql);
    const std::filesystem::path directory = directory_ / ("state" + std::to_string(number++));
    {
      Store store(directory);
      for (const char* id : {"0a", "0b", "0c"})
        put(store, id);
    }
    {
      Database database(directory / "store.db", Database::Mode::kWrite);
      database.execute(each.sql);
    }
    Store store(directory);
    const StoreContents contents = store.load();
    ASSERT_EQ(contents.runs.size(), 2U);
    EXPECT_EQ(contents.runs[0].run.id, "0a");
    EXPECT_EQ(contents.runs[1].run.id, "0c");
    ASSERT_EQ(contents.quarantined.size(), 1U);
    EXPECT_EQ(contents.quarantined[0].id, "0b");
    EXPECT_NE(contents.quarantined[0].problem.find(each.what), std::string::npos)
        << contents.quarantined[0].problem;
    EXPECT_EQ(store.check().problems.size(), 1U);
  }
}

// Bytes flipped in the file itself: whatever is hit, nothing wrong is ever loaded.
TEST_F(StoreTest, F15_FlippedBytesNeverLoadAWrongRun) {
  std::map<std::string, std::string> right;
  {
    Store store(state());
    for (int i = 0; i < 12; ++i) {
      const RunPtr record = put(store, "0run" + std::to_string(10 + i));
      right[record->run.id] = canonical_text(*record);
    }
  }
  const std::string file = lockstep::testing::read_file(state() / "store.db");
  std::uint64_t random = 12345;
  int refused = 0;
  int quarantined = 0;
  for (int trial = 0; trial < 60; ++trial) {
    std::string copy = file;
    random = random * 6364136223846793005ULL + 1442695040888963407ULL;
    copy[4096 + random % (copy.size() - 4096)] ^= static_cast<char>(1U << (random >> 60U & 7U));
    const std::string name = "copy" + std::to_string(trial);
    directory_.write(name + "/store.db", copy);
    try {
      Store store(directory_ / name);
      const StoreContents contents = store.load();
      quarantined += static_cast<int>(contents.quarantined.size());
      for (const RunRecord& record : contents.runs) {
        EXPECT_EQ(canonical_text(record), right[record.run.id]);
      }
    } catch (const StoreError&) {
      ++refused;  // the file is no database any more: a backup is needed
    }
  }
  EXPECT_GT(quarantined, 0);
  EXPECT_LT(refused, 30);
}

TEST_F(StoreTest, S14_OneChangedByteOfTheAuditLogIsFound) {
  {
    Store store(state());
    for (const char* id : {"0a", "0b", "0c"})
      put(store, id);
    EXPECT_TRUE(store.check().problems.empty());
  }
  for (const char* column :
       {"actor", "peer", "method", "resource", "before_json", "after_json", "result", "hash"}) {
    SCOPED_TRACE(column);
    const std::filesystem::path copy = directory_ / (std::string("copy-") + column);
    std::filesystem::copy(state(), copy, std::filesystem::copy_options::recursive);
    {
      Database database(copy / "store.db", Database::Mode::kWrite);
      database.execute(std::string("UPDATE audit SET ") + column + " = " + column +
                       " || 'x' WHERE sequence = 2");
    }
    const Store store(copy);
    const StoreReport report = store.check();
    ASSERT_EQ(report.problems.size(), 1U);
    EXPECT_NE(report.problems[0].find("entry 2"), std::string::npos) << report.problems[0];
  }
  damage("DELETE FROM audit WHERE sequence = 2");
  const Store store(state());
  EXPECT_EQ(store.check().problems.size(), 1U);
}

TEST_F(StoreTest, ABackupIsAWholeStoreAndOverwritesNothing) {
  Store store(state());
  put(store, "0a");
  const std::filesystem::path copy = directory_ / "backup" / "store.db";
  std::filesystem::create_directories(copy.parent_path());
  EXPECT_GT(store.backup(copy), 0);
  EXPECT_THROW(store.backup(copy), core::Error);
  put(store, "0b");
  Store restored(copy.parent_path());
  EXPECT_EQ(restored.load().runs.size(), 1U);
  EXPECT_TRUE(restored.check().problems.empty());
}

TEST_F(StoreTest, F16_MigratesBehindABackupAndRefusesANewerSchema) {
  const std::filesystem::path file = directory_ / "old.db";
  const std::vector<std::string> first = {"CREATE TABLE t (a INTEGER) STRICT"};
  {
    Database database(file, Database::Mode::kWrite);
    migrate(database, file, first);
    EXPECT_EQ(database.integer("PRAGMA user_version"), 1);
    database.execute("INSERT INTO t VALUES (7)");
  }
  EXPECT_FALSE(std::filesystem::exists(file.string() + ".v1.backup"));
  std::vector<std::string> broken = first;
  broken.push_back("ALTER TABLE t ADD COLUMN b INTEGER; UPDATE nothing SET a = 1");
  {
    Database database(file, Database::Mode::kWrite);
    EXPECT_THROW(migrate(database, file, broken), StoreError);
    EXPECT_EQ(database.integer("PRAGMA user_version"), 1) << "all steps or none";
    EXPECT_THROW(database.integer("SELECT b FROM t"), StoreError);
  }
  std::vector<std::string> second = first;
  second.push_back("ALTER TABLE t ADD COLUMN b INTEGER NOT NULL DEFAULT 5");
  {
    Database database(file, Database::Mode::kWrite);
    migrate(database, file, second);
    EXPECT_EQ(database.integer("SELECT a + b FROM t"), 12);
    migrate(database, file, second);
  }
  Database backup(file.string() + ".v1.backup", Database::Mode::kRead);
  EXPECT_EQ(backup.integer("PRAGMA user_version"), 1);
  EXPECT_EQ(backup.integer("SELECT a FROM t"), 7);
  const std::string before = lockstep::testing::read_file(file);
  {
    Database database(file, Database::Mode::kWrite);
    EXPECT_THROW(migrate(database, file, first), core::Error);
  }
  EXPECT_EQ(lockstep::testing::read_file(file), before);
}

TEST_F(StoreTest, F16_ANewerStoreIsRefusedWithoutTouchingIt) {
  { const Store store(state()); }
  damage("PRAGMA user_version = 99");
  EXPECT_THROW(Store store(state()), core::Error);
  Database database(state() / "store.db", Database::Mode::kRead);
  EXPECT_EQ(database.integer("PRAGMA user_version"), 99);
}

// RLIMIT_FSIZE stands for a full disk. In a child, since a limit cannot be taken back.
TEST_F(StoreTest, F14_AFullDiskFailsTheCommitAndNothingElse) {
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    Store store(state());
    put(store, "0a");
    const rlimit small = {256 * 1024, 256 * 1024};
    ::setrlimit(RLIMIT_FSIZE, &small);
    int failed = 0;
    for (int i = 0; i < 200 && failed == 0; ++i) {
      try {
        put(store, "0run" + std::to_string(100 + i));
      } catch (const StoreError&) {
        ++failed;
      }
    }
    const bool reads = store.events("0a", 0, 10).size() > 1;
    ::_exit(failed == 1 && reads && store.check().problems.empty() ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  Store store(state());
  EXPECT_TRUE(store.check().problems.empty());
  put(store, "0later");
}

}  // namespace
}  // namespace lockstep::coordinator::testing
