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
#include "coordinator/store/audit_head.h"
#include "coordinator/store/database.h"
#include "coordinator/store/disk_reserve.h"

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

// Ids of runs that have events and no row.
std::vector<std::string> runs_without_rows(Database& database);

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
  std::vector<std::string> deleted{};             // runs of which nothing is kept, by id
  std::optional<std::int64_t> requests_before{};  // served requests that are older (ns) go too
  // May wait until there is room: it gets none of the reserve on a full disk.
  bool deferrable = false;
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
  std::vector<std::string> findings;  // what the opening found about the audit log, in words
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
//
// Beside it lie a reserve of disk space (disk_reserve.h) and the signed head of the audit log
// (audit_head.h). A store that does not reach that head when it is opened was put back from an older
// copy, or its log was cut: either becomes an entry of the log, "StoreReplaced" or "AuditLogCut".
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
  // been changed. On a full disk what is not deferrable gets the reserve.
  void commit(const StoreWrite& write);
  // Whether there is room for everything; tries to get it back first. While there is not, what is
  // deferrable is refused.
  bool has_room();

  std::int64_t next_sequence() const;
  // The newest event that was deleted with its run; 0: none.
  std::int64_t forgotten_sequence() const;
  std::optional<ServedRequest> find_request(const std::string& caller,
                                            const std::string& request_id) const;

  // Oldest first; of one run or, with an empty id, of all.
  std::vector<Event> events(const std::string& run, std::int64_t after_sequence, int limit) const;
  std::vector<AuditRow> audit(std::int64_t after_sequence, int limit) const;

  // Replays every run, ended or not, against its row; looks for runs that the audit log tells of and
  // that are gone; checks the chain of that log, its head, and what SQLite itself can check.
  StoreReport check() const;

  // A consistent copy in a new file; its size. Throws core::Error(kConfig) if the file exists.
  std::int64_t backup(const std::filesystem::path& file) const;

  static int schema_version();
  const std::filesystem::path& file() const { return file_; }

 private:
  RunRecord load_run(const std::string& id) const;
  RunRecord read_row(const std::string& id) const;
  void check_audit(StoreReport& report) const;
  void check_rows(const std::map<std::string, std::int64_t>& made, StoreReport& report) const;
  void open(const std::filesystem::path& directory);
  void compare_with_head();
  void write_head();
  void transact(const StoreWrite& write);
  void write_rows(const StoreWrite& write);
  void delete_runs(const StoreWrite& write);
  void write_audit(const AuditRow& row);

  std::filesystem::path file_;
  int lock_ = -1;
  mutable std::mutex writer_mutex_;
  std::unique_ptr<Database> writer_;
  std::int64_t next_sequence_ = 1;
  std::int64_t audit_sequence_ = 0;  // of the newest entry
  std::string audit_hash_;
  std::int64_t forgotten_ = 0;
  DiskReserve reserve_;
  std::unique_ptr<AuditHeadFile> head_;
  bool head_stands_ =
      false;  // what the head tells could not be entered: it must not be overwritten
  std::vector<std::string> findings_;
  mutable std::mutex reader_mutex_;
  std::unique_ptr<Database> reader_;
};

}  // namespace lockstep::coordinator
