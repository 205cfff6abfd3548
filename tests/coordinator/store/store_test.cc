#include "coordinator/store/store.h"

#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
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

  static void fill(const std::filesystem::path& file) {
    std::ofstream filler(file, std::ios::binary);
    const std::string block(4096, 'x');
    while (filler.write(block.data(), 4096).flush()) {
    }
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

// Rows that are taken out, with or without what belongs to them.
TEST_F(StoreTest, ARemovedRunRowIsFound) {
  {
    Store store(state());
    put(store, "0a", RunState::kSucceeded);
    put(store, "0b", RunState::kSucceeded);
  }
  damage("PRAGMA foreign_keys = OFF; DELETE FROM runs WHERE id = '0a'");
  {
    Store store(state());
    const StoreContents contents = store.load();
    EXPECT_EQ(contents.runs.size(), 1U);
    ASSERT_EQ(contents.quarantined.size(), 1U);
    EXPECT_EQ(contents.quarantined[0].id, "0a");
    ASSERT_EQ(store.check().problems.size(), 1U);
    EXPECT_NE(store.check().problems[0].find("0a"), std::string::npos);
  }
  damage("DELETE FROM run_texts WHERE run_id = '0a'; DELETE FROM events WHERE run_id = '0a'");
  Store store(state());
  ASSERT_EQ(store.check().problems.size(), 1U);
  EXPECT_NE(store.check().problems[0].find("run 0a: its row is gone"), std::string::npos)
      << store.check().problems[0];
}

TEST_F(StoreTest, ADeletedRunIsNoProblem) {
  Store store(state());
  put(store, "0a", RunState::kSucceeded);
  put(store, "0b", RunState::kSucceeded);
  const std::int64_t newest = store.next_sequence() - 1;
  StoreWrite write;
  write.deleted = {"0b"};
  AuditRow audit;
  audit.method = "DeleteRun";
  audit.resource = "0b";
  audit.result = "OK";
  write.audit = audit;
  store.commit(write);
  EXPECT_TRUE(store.check().problems.empty());
  EXPECT_EQ(store.load().runs.size(), 1U);
  EXPECT_TRUE(store.events("0b", 0, 10).empty());
  EXPECT_EQ(store.forgotten_sequence(), newest);
  EXPECT_EQ(store.next_sequence(), newest + 1);
}

TEST_F(StoreTest, ACutAuditLogIsFoundByItsHeadOutsideTheStore) {
  {
    Store store(state());
    for (const char* id : {"0a", "0b", "0c"})
      put(store, id);
  }
  damage("DELETE FROM audit WHERE sequence = 3");
  for (int start = 0; start < 2; ++start) {
    Store store(state());
    const std::vector<std::string> problems = store.check().problems;
    ASSERT_EQ(problems.size(), 1U) << "and it is not forgotten by the next start";
    EXPECT_NE(problems[0].find("it was cut or rewritten"), std::string::npos) << problems[0];
    EXPECT_EQ(store.load().findings.size(), start == 0 ? 1U : 0U);
    put(store, start == 0 ? "0d" : "0e");
  }
  damage("DELETE FROM audit");
  Store store(state());
  EXPECT_FALSE(store.check().problems.empty()) << "with the entry that told of it";
}

TEST_F(StoreTest, AHeadThatWasRemovedOrForgedIsFound) {
  { Store store(state()); }
  { put(*std::make_unique<Store>(state()), "0a"); }
  const std::string head = lockstep::testing::read_file(state() / "audit.head");
  std::filesystem::remove(state() / "audit.head");
  {
    Store store(state());
    EXPECT_EQ(store.check().problems.size(), 1U);
  }
  std::string forged = head;
  for (std::size_t at = forged.find("\"hash\":\""); at != std::string::npos;
       at = forged.find("\"hash\":\"", at + 1))
    forged.replace(at, 8, "\"HASH\":\"");
  std::ofstream(state() / "audit.head", std::ios::binary) << forged;
  Store store(state());
  EXPECT_EQ(store.check().problems.size(), 2U);
}

// Not a cut log: the whole store is older, or carries the mark of a backup. The log says so from then on.
TEST_F(StoreTest, AnOlderStoreThatIsPutBackIsSaidInTheAuditLog) {
  const std::filesystem::path copy = directory_ / "copy.db";
  const std::filesystem::path backup = directory_ / "backup.db";
  {
    Store store(state());
    put(store, "0a");
    store.backup(backup);
  }
  std::filesystem::copy_file(state() / "store.db", copy);
  {
    Store store(state());
    put(store, "0b");
  }
  for (const auto& older : {copy, backup}) {
    SCOPED_TRACE(older);
    std::filesystem::copy_file(older, state() / "store.db",
                               std::filesystem::copy_options::overwrite_existing);
    Store store(state());
    EXPECT_TRUE(store.check().problems.empty());
    EXPECT_EQ(store.audit(0, 10).back().method, "StoreReplaced");
    put(store, "0later");
  }
  Store store(state());
  EXPECT_NE(store.audit(0, 10).back().method, "StoreReplaced") << "said once";
}

// A full disk, for once a real one: what stops and ends runs still has the room that was kept.
TEST_F(StoreTest, F14_TheReserveIsForWhatCannotWait) {
  std::filesystem::create_directory(state());
  if (::mount("tmpfs", state().c_str(), "tmpfs", 0, "size=16m,mode=0700") != 0) {
    GTEST_SKIP() << "cannot mount a tmpfs: " << std::strerror(errno);
  }
  const std::string mounted = state().string();
  const std::shared_ptr<const void> unmount(
      nullptr, [&mounted](const void*) { ::umount2(mounted.c_str(), MNT_DETACH); });
  {
    Store store(state());
    ASSERT_TRUE(store.has_room());
    put(store, "0a");
    fill(state() / "filler");
    StoreWrite probe;
    probe.fence = 1;
    probe.deferrable = true;
    bool refused = false;
    for (int i = 0; i < 400 && !refused; ++i) {
      try {
        store.commit(probe);
      } catch (const StoreError& error) {
        refused = true;
        EXPECT_EQ(error.fault(), StoreFault::kFull) << error.what();
      }
    }
    EXPECT_TRUE(refused) << "a small log has holes, but not for ever";
    for (int i = 0; i < 20; ++i)
      EXPECT_NO_THROW(put(store, "0urgent" + std::to_string(10 + i)));
    EXPECT_FALSE(store.has_room());
    EXPECT_THROW(store.commit(probe), StoreError) << "what can wait gets nothing of the reserve";
  }
  fill(state() / "more");
  {
    Store store(state());
    EXPECT_EQ(store.load().runs.size(), 21U) << "a start on a full disk reads";
    EXPECT_TRUE(store.check().problems.empty());
    std::filesystem::remove(state() / "filler");
    EXPECT_TRUE(store.has_room());
    put(store, "0after");
  }
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
