#include "coordinator/store/store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include <fmt/format.h>

#include "coordinator/model/failpoint.h"
#include "coordinator/model/run_json.h"
#include "coordinator/model/sha256.h"
#include "coordinator/store/backup_mark.h"
#include "coordinator/store/schema.h"
#include "core/error.h"
#include "runtime/files/write_file.h"

namespace lockstep::coordinator {
namespace {

[[noreturn]] void refuse_second(const std::filesystem::path& directory, const std::string& who) {
  throw core::Error(core::ErrorKind::kConfig,
                    fmt::format("{}: another coordinator{} has this state directory; end it, or "
                                "give this one a state directory of its own",
                                directory.string(), who));
}

// Two locks. The record lock belongs to this process alone. The flock, which tells a second store
// of this process and coordinators of older versions, is for an instant also that of a child
// between its fork and its exec: one that outlives its coordinator is waited for.
int take_lock(const std::filesystem::path& directory) {
  constexpr auto kLongestExec = std::chrono::seconds(5);
  const std::filesystem::path path = directory / "lock";
  const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0) {
    throw core::Error(core::ErrorKind::kConfig,
                      fmt::format("{}: {}", path.string(), std::strerror(errno)));
  }
  struct flock whole {};
  whole.l_type = F_WRLCK;
  whole.l_whence = SEEK_SET;
  if (::fcntl(file, F_SETLK, &whole) != 0) {
    const bool known = ::fcntl(file, F_GETLK, &whole) == 0 && whole.l_type != F_UNLCK;
    ::close(file);
    refuse_second(directory, known ? fmt::format(" (process {})", whole.l_pid) : "");
  }
  const auto give_up = std::chrono::steady_clock::now() + kLongestExec;
  while (::flock(file, LOCK_EX | LOCK_NB) != 0) {
    if (std::chrono::steady_clock::now() > give_up) {
      ::close(file);
      refuse_second(directory, "");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return file;
}

void make_private_directory(const std::filesystem::path& directory) {
  if (std::filesystem::is_directory(directory)) return;
  std::error_code error;
  std::filesystem::create_directories(directory.parent_path(), error);
  if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) {
    throw core::Error(core::ErrorKind::kConfig,
                      fmt::format("{}: {}", directory.string(), std::strerror(errno)));
  }
}

void put_token(Database& database, const TokenRow& token) {
  database.prepare("INSERT OR REPLACE INTO tokens VALUES (?, ?, ?, ?, ?, ?)")
      .bind(token.name)
      .bind(token.hash)
      .bind(token.scopes)
      .bind(token.create_time_ns)
      .bind(token.expire_time_ns)
      .bind(std::int64_t{token.revoked})
      .run();
}

bool is_lack_of_room(const StoreError& error) {
  return error.fault() == StoreFault::kFull || error.fault() == StoreFault::kIo;
}

// In the table of counters: the newest event that the server had when runs were deleted, and the
// newest one that was deleted with them.
constexpr const char* kDeletedUpTo = "deleted_up_to";
constexpr const char* kForgotten = "forgotten";

std::int64_t counter(Database& database, const char* name) {
  Statement row = database.prepare("SELECT value FROM counters WHERE name = ?");
  row.bind(name);
  return row.step() ? row.integer(0) : 0;
}

void set_counter(Database& database, const char* name, std::int64_t value) {
  database.prepare("INSERT OR REPLACE INTO counters VALUES (?, ?)").bind(name).bind(value).run();
}

void put_event(Database& database, const Event& event) {
  database.prepare("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)")
      .bind(event.sequence)
      .bind(event.run)
      .bind(event.run_sequence)
      .bind(to_string(event.kind))
      .bind(event.time_ns)
      .bind(event.actor)
      .bind(canonical_text(event.context))
      .run();
}

void put_row(Database& database, const RunRecord& record) {
  const std::string text = canonical_text(record);
  database
      .prepare(
          "INSERT INTO runs VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
          "state = excluded.state, record = excluded.record, "
          "record_hash = excluded.record_hash")
      .bind(record.run.id)
      .bind(to_string(record.run.state))
      .bind(text)
      .bind(sha256_hex(text))
      .run();
}

}  // namespace

std::string audit_hash(const std::string& previous, const AuditRow& row) {
  const nlohmann::json fields = {row.sequence,    row.time_ns,    row.actor,
                                 row.peer,        row.method,     row.resource,
                                 row.before_json, row.after_json, row.result};
  return sha256_hex(previous + canonical_text(fields));
}

Store::Store(const std::filesystem::path& directory)
    : file_(directory / "store.db"), reserve_(directory / "reserve") {
  make_private_directory(directory);
  lock_ = take_lock(directory);
  try {
    try {
      open(directory);
    } catch (const StoreError& error) {
      // The index of the log needs room, even to read.
      if (!is_lack_of_room(error) || !reserve_.held()) throw;
      reserve_.release();
      open(directory);
    }
    reserve_.make();
    compare_with_head();
  } catch (...) {
    ::close(lock_);
    throw;
  }
}

void Store::open(const std::filesystem::path& directory) {
  const bool is_new = !std::filesystem::exists(file_) || std::filesystem::is_empty(file_);
  reader_.reset();
  writer_ = std::make_unique<Database>(file_, Database::Mode::kWrite);
  if (is_new) {
    std::filesystem::permissions(
        file_, std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
    writer_->execute("PRAGMA journal_mode = WAL");
  }
  migrate(*writer_, file_, store_migrations());
  writer_->execute("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON");
  if (is_new) runtime::sync_path(directory.string());
  next_sequence_ = 1 + std::max(writer_->integer("SELECT coalesce(max(sequence), 0) FROM events"),
                                counter(*writer_, kDeletedUpTo));
  forgotten_ = counter(*writer_, kForgotten);
  Statement audit =
      writer_->prepare("SELECT sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1");
  if (audit.step()) {
    audit_sequence_ = audit.integer(0);
    audit_hash_ = audit.text(1);
  }
  reader_ = std::make_unique<Database>(file_, Database::Mode::kRead);
  head_ = std::make_unique<AuditHeadFile>(directory);
}

Store::~Store() {
  reader_.reset();
  writer_.reset();
  // What the log of the store gives back on a full disk is what the next start needs.
  reserve_.make(true);
  ::close(lock_);
}

int Store::schema_version() {
  return static_cast<int>(store_migrations().size());
}

std::int64_t Store::next_sequence() const {
  const std::lock_guard lock(writer_mutex_);
  return next_sequence_;
}

std::int64_t Store::forgotten_sequence() const {
  const std::lock_guard lock(writer_mutex_);
  return forgotten_;
}

void Store::write_audit(const AuditRow& given) {
  AuditRow row = given;
  row.sequence = audit_sequence_ + 1;
  row.hash = audit_hash(audit_hash_, row);
  writer_->prepare("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
      .bind(row.sequence)
      .bind(row.time_ns)
      .bind(row.actor)
      .bind(row.peer)
      .bind(row.method)
      .bind(row.resource)
      .bind(row.before_json)
      .bind(row.after_json)
      .bind(row.result)
      .bind(row.hash)
      .run();
  audit_sequence_ = row.sequence;
  audit_hash_ = row.hash;
}

void Store::write_rows(const StoreWrite& write) {
  Database& database = *writer_;
  for (const RunPtr& record : write.rows)
    put_row(database, *record);
  if (write.new_texts) {
    const Run& run = write.rows.at(0)->run;
    database.prepare("INSERT INTO run_texts VALUES (?, ?, ?, ?)")
        .bind(run.id)
        .bind(run.texts->config_yaml)
        .bind(run.texts->config_source)
        .bind(run.texts->resolved_config)
        .run();
  }
  for (const Event& event : write.events)
    put_event(database, event);
  if (write.fence) {
    database.prepare("UPDATE counters SET value = ? WHERE name = 'fence'").bind(*write.fence).run();
  }
  for (const TokenRow& token : write.tokens)
    put_token(database, token);
  for (const HostRow& host : write.hosts) {
    database.prepare("INSERT OR REPLACE INTO hosts VALUES (?, ?, ?)")
        .bind(host.name)
        .bind(std::int64_t{host.drained})
        .bind(host.drain_reason)
        .run();
  }
  if (write.request) {
    database.prepare("INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?)")
        .bind(write.request->caller)
        .bind(write.request->request_id)
        .bind(write.request->method)
        .bind(write.request->digest)
        .bind(write.request->resource)
        .bind(write.audit ? write.audit->time_ns : 0)
        .run();
  }
}

// Of one run an index has the events; its row comes last.
void Store::delete_runs(const StoreWrite& write) {
  Database& database = *writer_;
  std::int64_t newest = forgotten_;
  for (const std::string& run : write.deleted) {
    Statement last =
        database.prepare("SELECT coalesce(max(sequence), 0) FROM events WHERE run_id = ?");
    last.bind(run);
    if (last.step()) newest = std::max(newest, last.integer(0));
    for (const char* statement :
         {"DELETE FROM events WHERE run_id = ?", "DELETE FROM run_texts WHERE run_id = ?",
          "DELETE FROM runs WHERE id = ?"}) {
      database.prepare(statement).bind(run).run();
    }
  }
  if (!write.deleted.empty()) {
    set_counter(database, kDeletedUpTo, next_sequence_ - 1);
    set_counter(database, kForgotten, newest);
  }
  if (write.requests_before) {
    database.prepare("DELETE FROM requests WHERE time_ns < ?").bind(*write.requests_before).run();
  }
}

void Store::transact(const StoreWrite& write) {
  const std::int64_t audit_sequence = audit_sequence_;
  const std::string previous_hash = audit_hash_;
  try {
    WriteTransaction transaction(*writer_);
    write_rows(write);
    delete_runs(write);
    if (write.audit) write_audit(*write.audit);
    transaction.commit();
  } catch (...) {
    audit_sequence_ = audit_sequence;
    audit_hash_ = previous_hash;
    throw;
  }
}

bool Store::has_room() {
  const std::lock_guard lock(writer_mutex_);
  return reserve_.make();
}

void Store::commit(const StoreWrite& write) {
  const std::lock_guard lock(writer_mutex_);
  std::int64_t sequence = next_sequence_;
  for (const Event& event : write.events) {
    if (event.sequence != sequence++) {
      throw core::Error(
          core::ErrorKind::kInternal,
          fmt::format("event {} is to be stored where {} follows", event.sequence, sequence - 1));
    }
  }
  failpoint("store.before_commit");
  if (write.deferrable && !reserve_.held()) {
    throw StoreError(StoreFault::kFull,
                     "the disk under the store is full; only what stops and ends runs is still "
                     "written");
  }
  try {
    transact(write);
  } catch (const StoreError& error) {
    if (!is_lack_of_room(error) || write.deferrable || !reserve_.held()) throw;
    reserve_.release();
    transact(write);
  }
  next_sequence_ = sequence;
  if (!write.deleted.empty()) forgotten_ = counter(*writer_, kForgotten);
  write_head();
  try {
    failpoint("store.after_commit");
  } catch (const core::Error&) {
    // It is durable: no error may say otherwise.
  }
}

std::optional<ServedRequest> Store::find_request(const std::string& caller,
                                                 const std::string& request_id) const {
  const std::lock_guard lock(writer_mutex_);
  Statement statement = writer_->prepare(
      "SELECT method, digest, resource FROM requests WHERE caller = ? AND request_id = ?");
  statement.bind(caller).bind(request_id);
  if (!statement.step()) return std::nullopt;
  return ServedRequest{caller, request_id, statement.text(0), statement.text(1), statement.text(2)};
}

std::int64_t Store::backup(const std::filesystem::path& file) const {
  if (std::filesystem::exists(file)) {
    throw core::Error(core::ErrorKind::kConfig,
                      fmt::format("{} exists; a backup goes to a new file", file.string()));
  }
  {
    const std::lock_guard lock(reader_mutex_);
    reader_->prepare("VACUUM INTO ?").bind(file.string()).run();
  }
  // An older store that was put back is thereby told apart from an audit log that was cut.
  Database(file, Database::Mode::kWrite).execute(kMarkBackup);
  runtime::sync_path(file.string());
  return static_cast<std::int64_t>(std::filesystem::file_size(file));
}

}  // namespace lockstep::coordinator
