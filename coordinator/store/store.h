#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/model/event.h"
#include "coordinator/model/run.h"
#include "coordinator/store/database.h"

namespace lockstep::coordinator {

// A mutating call that was served: the same id of the same caller gets the same answer again.
struct ServedRequest {
  std::string caller;
  std::string request_id;
  std::string method;
  std::string digest;    // of the arguments: the same id with others is an error of the caller
  std::string resource;  // id of the run, or name of the host or token
};

struct TokenRow {
  std::string name;
  std::string hash;    // hex sha256 of the secret
  std::string scopes;  // sorted, with commas
  std::int64_t create_time_ns = 0;
  std::int64_t expire_time_ns = 0;  // 0: never
  bool revoked = false;
};

struct HostRow {
  std::string name;
  bool drained = false;
  std::string drain_reason;
};

// One entry of the audit log; sequence and hash are the store's.
struct AuditRow {
  std::int64_t sequence = 0;
  std::int64_t time_ns = 0;
  std::string actor;
  std::string peer;
  std::string method;
  std::string resource;
  std::string before_json;
  std::string after_json;
  std::string result;
  std::string hash;  // hex sha256(hash of the one before, canonical text of this one)
};

// Hex sha256 that chains `row` to the entry before it ("" for the first).
std::string audit_hash(const std::string& previous, const AuditRow& row);

// All of it becomes durable, or none.
struct StoreWrite {
  std::vector<Event> events{};  // numbered from Store::next_sequence() on
  std::vector<RunPtr> rows{};   // each run that the events changed, after them
  bool new_texts = false;       // the first of `rows` is new: its texts are stored too
  std::optional<std::int64_t> fence{};
  std::optional<ServedRequest> request{};
  std::optional<AuditRow> audit{};
  std::vector<TokenRow> tokens{};
  std::vector<HostRow> hosts{};
};

struct QuarantinedRun {
  std::string id;
  std::string problem;
};

struct StoreContents {
  std::vector<RunRecord> runs;  // by id, with texts
  std::vector<QuarantinedRun> quarantined;
  std::vector<TokenRow> tokens;
  std::vector<HostRow> hosts;
  std::int64_t fence = 0;
};

struct StoreReport {
  std::vector<std::string> problems;
  std::int64_t runs = 0;
  std::int64_t events = 0;
  std::int64_t audit_events = 0;
};

// The coordinator's memory: DIRECTORY/store.db (SQLite, WAL, every commit forced to disk), which
// one process at a time may open. Thread-safe; one thread at a time writes, and reads do not wait
// for it. Failpoints: store.before_commit, store.after_commit.
class Store {
 public:
  // Makes the directory (mode 0700) if it is not there. Throws core::Error(kConfig): another
  // coordinator has it, or the schema is newer; StoreError: it cannot be read.
  explicit Store(const std::filesystem::path& directory);
  ~Store();
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  // Everything but events and the audit log. Of each run, its row must have its hash, its texts
  // theirs, and, unless it has ended, the row must equal the replay of its events; a run where that
  // is not so is quarantined.
  StoreContents load();

  // Returns once it is on the disk. Throws StoreError or core::Error (a failpoint): nothing has
  // been changed.
  void commit(const StoreWrite& write);

  std::int64_t next_sequence() const;
  std::optional<ServedRequest> find_request(const std::string& caller,
                                            const std::string& request_id) const;

  // Oldest first; of one run or, with an empty id, of all.
  std::vector<Event> events(const std::string& run, std::int64_t after_sequence, int limit) const;
  std::vector<AuditRow> audit(std::int64_t after_sequence, int limit) const;

  // Replays every run, ended or not, against its row; checks the chain of the audit log and what
  // SQLite itself can check.
  StoreReport check() const;

  // A consistent copy in a new file; its size. Throws core::Error(kConfig) if the file exists.
  std::int64_t backup(const std::filesystem::path& file) const;

  static int schema_version();
  const std::filesystem::path& file() const { return file_; }

 private:
  RunRecord load_run(const std::string& id) const;
  RunRecord read_row(const std::string& id) const;
  void check_audit(StoreReport& report) const;
  void write_rows(const StoreWrite& write);
  void write_audit(const AuditRow& row);

  std::filesystem::path file_;
  int lock_ = -1;
  mutable std::mutex writer_mutex_;
  std::unique_ptr<Database> writer_;
  std::int64_t next_sequence_ = 1;
  std::int64_t audit_sequence_ = 0;  // of the newest entry
  std::string audit_hash_;
  mutable std::mutex reader_mutex_;
  std::unique_ptr<Database> reader_;
};

}  // namespace lockstep::coordinator
