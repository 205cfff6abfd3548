#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "coordinator/model/run_json.h"
#include "coordinator/model/run_machine.h"
#include "coordinator/model/sha256.h"
#include "coordinator/store/store.h"
#include "core/error.h"

// Loading, listing and checking.
namespace lockstep::coordinator {
namespace {

using nlohmann::json;

[[noreturn]] void corrupt(const std::string& what) {
  throw core::Error(core::ErrorKind::kData, what);
}

constexpr const char* kEventColumns =
    "SELECT sequence, run_id, run_sequence, kind, time_ns, actor, context FROM events ";

Event read_event(const Statement& row) {
  Event event;
  event.sequence = row.integer(0);
  event.run = row.text(1);
  event.run_sequence = row.integer(2);
  event.kind = parse_event_kind(row.text(3));
  event.time_ns = row.integer(4);
  event.actor = row.text(5);
  event.context = json::parse(row.text(6));
  return event;
}

RunRecord replay(Database& database, const std::string& id, std::int64_t& count) {
  RunRecord record;
  Statement rows =
      database.prepare(std::string(kEventColumns) + "WHERE run_id = ? ORDER BY run_sequence");
  rows.bind(id);
  for (; rows.step(); ++count)
    apply(record, read_event(rows));
  return record;
}

void require_replay(Database& database, const RunRecord& record, std::int64_t& count) {
  const RunRecord replayed = replay(database, record.run.id, count);
  if (canonical_text(replayed) != canonical_text(record)) {
    corrupt("its row is not what its events lead to");
  }
}

std::vector<std::string> ids(Database& database) {
  std::vector<std::string> all;
  Statement rows = database.prepare("SELECT id FROM runs ORDER BY id");
  while (rows.step())
    all.push_back(rows.text(0));
  return all;
}

// Ends a read transaction however the scope is left.
class ReadTransaction {
 public:
  explicit ReadTransaction(Database& database) : database_(database) { database_.execute("BEGIN"); }
  ~ReadTransaction() {
    try {
      database_.execute("COMMIT");
    } catch (const StoreError&) {
      // Nothing was written, so nothing can be lost.
    }
  }
  ReadTransaction(const ReadTransaction&) = delete;
  ReadTransaction& operator=(const ReadTransaction&) = delete;

 private:
  Database& database_;
};

}  // namespace

// The row, proved to be as it was written; without a replay.
RunRecord Store::read_row(const std::string& id) const {
  Statement row = reader_->prepare("SELECT state, record, record_hash FROM runs WHERE id = ?");
  row.bind(id);
  if (!row.step()) corrupt("its row cannot be found again");
  const std::string text = row.text(1);
  if (sha256_hex(text) != row.text(2)) corrupt("its row does not have its hash");
  RunRecord record = json::parse(text).get<RunRecord>();
  if (record.run.id != id) corrupt("its row is of another run");
  if (to_string(record.run.state) != row.text(0)) corrupt("its row has two states");
  Statement texts = reader_->prepare(
      "SELECT config_yaml, config_source, resolved_config FROM run_texts WHERE run_id = ?");
  texts.bind(id);
  if (!texts.step()) corrupt("its configuration is missing");
  auto read = std::make_shared<RunTexts>();
  read->config_yaml = texts.text(0);
  read->config_source = texts.text(1);
  read->resolved_config = texts.text(2);
  if (sha256_hex(read->resolved_config) != record.run.config_sha256) {
    corrupt("its configuration does not have its hash");
  }
  record.run.texts = std::move(read);
  return record;
}

RunRecord Store::load_run(const std::string& id) const {
  RunRecord record = read_row(id);
  std::int64_t count = 0;
  if (!is_terminal(record.run.state)) require_replay(*reader_, record, count);
  return record;
}

StoreContents Store::load() {
  const std::lock_guard lock(reader_mutex_);
  const ReadTransaction transaction(*reader_);
  StoreContents contents;
  for (const std::string& id : ids(*reader_)) {
    try {
      contents.runs.push_back(load_run(id));
    } catch (const std::exception& error) {
      contents.quarantined.push_back({id, error.what()});
    }
  }
  // Somebody removed the row of a run: its id is never given to another, and nothing of it starts.
  try {
    for (const std::string& id : runs_without_rows(*reader_))
      contents.quarantined.push_back({id, "its row is gone"});
  } catch (const StoreError&) {
    // The events cannot be read as a whole; check() tells what is wrong with them.
  }
  contents.findings = findings_;
  Statement tokens = reader_->prepare(
      "SELECT name, hash, scopes, create_time_ns, expire_time_ns, revoked FROM tokens "
      "ORDER BY name");
  while (tokens.step()) {
    contents.tokens.push_back({tokens.text(0), tokens.text(1), tokens.text(2), tokens.integer(3),
                               tokens.integer(4), tokens.integer(5) != 0});
  }
  Statement hosts = reader_->prepare("SELECT name, drained, drain_reason FROM hosts");
  while (hosts.step()) {
    contents.hosts.push_back({hosts.text(0), hosts.integer(1) != 0, hosts.text(2)});
  }
  contents.fence = reader_->integer("SELECT value FROM counters WHERE name = 'fence'");
  return contents;
}

std::vector<Event> Store::events(const std::string& run, std::int64_t after_sequence,
                                 int limit) const {
  const std::lock_guard lock(reader_mutex_);
  const std::string of_run = run.empty() ? "" : "AND run_id = ? ";
  Statement rows = reader_->prepare(std::string(kEventColumns) + "WHERE sequence > ? " + of_run +
                                    "ORDER BY sequence LIMIT ?");
  rows.bind(after_sequence);
  if (!run.empty()) rows.bind(run);
  rows.bind(std::int64_t{limit});
  std::vector<Event> found;
  while (rows.step()) {
    try {
      found.push_back(read_event(rows));
    } catch (const std::exception&) {
      // Of a run that is quarantined; check() tells what is wrong with it.
    }
  }
  return found;
}

StoreReport Store::check() const {
  const std::lock_guard lock(reader_mutex_);
  const ReadTransaction transaction(*reader_);
  StoreReport report;
  Statement database_check = reader_->prepare("PRAGMA integrity_check(20)");
  while (database_check.step()) {
    if (database_check.text(0) != "ok") report.problems.push_back(database_check.text(0));
  }
  for (const std::string& id : ids(*reader_)) {
    ++report.runs;
    try {
      require_replay(*reader_, read_row(id), report.events);
    } catch (const std::exception& error) {
      report.problems.push_back(fmt::format("run {}: {}", id, error.what()));
    }
  }
  check_audit(report);
  return report;
}

}  // namespace lockstep::coordinator
