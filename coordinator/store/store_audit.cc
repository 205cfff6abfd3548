#include <chrono>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "coordinator/store/backup_mark.h"
#include "coordinator/store/store.h"

// The audit log, what it says of runs, and its head outside the store.
namespace lockstep::coordinator {
namespace {

using nlohmann::json;

constexpr const char* kReplaced = "StoreReplaced";
constexpr const char* kCut = "AuditLogCut";

std::int64_t unix_now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

AuditRow finding_row(const char* method, const json& before, std::int64_t after) {
  AuditRow row;
  row.time_ns = unix_now_ns();
  row.actor = "coordinator";
  row.method = method;
  row.before_json = before.dump();
  row.after_json = json{{"sequence", after}}.dump();
  row.result = "OK";
  return row;
}

AuditRow read_audit(const Statement& row) {
  return {row.integer(0), row.integer(1), row.text(2), row.text(3), row.text(4),
          row.text(5),    row.text(6),    row.text(7), row.text(8), row.text(9)};
}

constexpr const char* kAuditColumns =
    "SELECT sequence, time_ns, actor, peer, method, resource, before_json, after_json, result, "
    "hash FROM audit WHERE sequence > ? ORDER BY sequence LIMIT ?";

// The hash of an entry; empty: there is none.
std::string hash_at(Database& database, std::int64_t sequence) {
  Statement row = database.prepare("SELECT hash FROM audit WHERE sequence = ?");
  row.bind(sequence);
  return row.step() ? row.text(0) : "";
}

bool reaches(Database& database, const AuditHead& head) {
  return head.sequence == 0 || hash_at(database, head.sequence) == head.hash;
}

// Runs that must have rows, with the entries that tell of them.
class RunsMade {
 public:
  void take(const AuditRow& row) {
    if (row.result != "OK") return;
    if (row.method == "CreateRun" || row.method == "RetryRun" || row.method == "AdoptAttempt") {
      made_[row.resource] = row.sequence;
    } else if (row.method == "DeleteRun") {
      made_.erase(row.resource);
    } else if (row.method == "Retention") {
      const json runs = json::parse(row.before_json, nullptr, false);
      for (const json& run : runs.is_array() ? runs : json::array())
        if (run.is_string()) made_.erase(run.get<std::string>());
    }
  }
  const std::map<std::string, std::int64_t>& all() const { return made_; }

 private:
  std::map<std::string, std::int64_t> made_;
};

}  // namespace

// Called once the store is open. An older copy that was put back is no crime, but stands in the log
// from then on; a log that ends before its head, in a store that is not older, was cut.
void Store::compare_with_head() {
  const bool is_backup = writer_->integer(kIsBackup) != 0;
  const auto& head = head_->newest();
  const bool lost = head_->was_lost() && audit_sequence_ > 0;
  const bool reached = !head || reaches(*writer_, *head);
  if (is_backup || lost || !reached) {
    const bool older = is_backup || (head && next_sequence_ - 1 < head->event);
    const char* method = !lost && older ? kReplaced : kCut;
    json before = {{"head", "removed or altered"}};
    if (head) before = {{"sequence", head->sequence}, {"hash", head->hash}};
    if (is_backup && reached && !lost) before = {{"backup", true}};
    findings_.push_back(
        method == kReplaced
            ? fmt::format("the store is an older copy that was put back: its audit log ends at "
                          "entry {}",
                          audit_sequence_)
            : fmt::format("the audit log ends at entry {}, and its signed head outside the store "
                          "tells of more ({}): it was cut or rewritten",
                          audit_sequence_, before.dump()));
    const std::int64_t sequence = audit_sequence_;
    const std::string hash = audit_hash_;
    try {
      WriteTransaction transaction(*writer_);
      writer_->execute(kClearBackup);
      write_audit(finding_row(method, before, audit_sequence_));
      transaction.commit();
    } catch (const StoreError&) {
      audit_sequence_ = sequence;
      audit_hash_ = hash;
      head_stands_ = true;
    }
  }
  write_head();
}

void Store::write_head() {
  if (!head_stands_) head_->write({audit_sequence_, audit_hash_, next_sequence_ - 1});
}

std::vector<AuditRow> Store::audit(std::int64_t after_sequence, int limit) const {
  const std::lock_guard lock(reader_mutex_);
  Statement rows = reader_->prepare(kAuditColumns);
  rows.bind(after_sequence).bind(std::int64_t{limit});
  std::vector<AuditRow> found;
  while (rows.step())
    found.push_back(read_audit(rows));
  return found;
}

void Store::check_audit(StoreReport& report) const {
  Statement rows = reader_->prepare(kAuditColumns);
  rows.bind(std::int64_t{0}).bind(std::int64_t{-1});
  std::string previous;
  RunsMade made;
  for (; rows.step(); ++report.audit_events) {
    const AuditRow row = read_audit(rows);
    if (row.sequence != report.audit_events + 1) {
      report.problems.push_back(
          fmt::format("audit log: entry {} follows entry {}", row.sequence, report.audit_events));
      return;
    }
    if (audit_hash(previous, row) != row.hash) {
      report.problems.push_back(
          fmt::format("audit log: entry {} does not have its hash", row.sequence));
      return;
    }
    if (row.method == kCut) {
      report.problems.push_back(
          fmt::format("audit log: it was cut or rewritten before entry {}; outside the store was "
                      "known: {}",
                      row.sequence, row.before_json));
    }
    made.take(row);
    previous = row.hash;
  }
  check_rows(made.all(), report);
}

// Rows that somebody removed: the log tells of the run, or its events are still there.
void Store::check_rows(const std::map<std::string, std::int64_t>& made, StoreReport& report) const {
  for (const auto& [run, entry] : made) {
    Statement row = reader_->prepare("SELECT 1 FROM runs WHERE id = ?");
    row.bind(run);
    if (row.step()) continue;
    report.problems.push_back(fmt::format(
        "run {}: its row is gone, though entry {} of the audit log made it and none deleted it",
        run, entry));
  }
  for (const std::string& run : runs_without_rows(*reader_)) {
    if (!made.contains(run)) {
      report.problems.push_back(fmt::format("run {}: there are events of it, but no row", run));
    }
  }
}

std::vector<std::string> runs_without_rows(Database& database) {
  std::vector<std::string> runs;
  Statement rows = database.prepare(
      "SELECT DISTINCT run_id FROM events WHERE run_id NOT IN (SELECT id FROM runs)");
  while (rows.step())
    runs.push_back(rows.text(0));
  return runs;
}

}  // namespace lockstep::coordinator
