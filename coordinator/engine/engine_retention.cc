#include <algorithm>
#include <chrono>
#include <set>

#include <fmt/format.h>

#include "coordinator/engine/attempt_files.h"
#include "coordinator/engine/engine_core.h"
#include "coordinator/model/run_json.h"
#include "coordinator/model/verbs.h"
#include "core/error.h"

// How long ended runs and their files are kept. A run goes as a whole: its files are moved away
// first, then its rows and events are deleted in one transaction, then the files; a coordinator that
// dies on the way finds at its start which of the two it was.
namespace lockstep::coordinator {
namespace {

constexpr const char* kActor = "coordinator";
constexpr std::int64_t kRetentionNs = 5 * kSecond;
constexpr std::size_t kAtOnce = 100;                       // runs of one transaction
constexpr std::int64_t kRequestsNs = 24 * 3600 * kSecond;  // served requests are remembered
constexpr std::int64_t kRequestsEveryNs = 3600 * kSecond;

bool is_over(const RunRecord& record) {
  return is_terminal(record.run.state) &&
         std::none_of(record.attempts.begin(), record.attempts.end(),
                      [](const Attempt& attempt) { return attempt.slots_leased; });
}

// Ended runs that others, which have not ended, were made to follow.
std::set<std::string> followed(const std::vector<RunPtr>& runs) {
  std::set<std::string> all;
  for (const RunPtr& record : runs) {
    if (is_terminal(record->run.state)) continue;
    all.insert(record->run.after.begin(), record->run.after.end());
  }
  return all;
}

void require_deletable(const EngineCore& core, const RunRecord& record) {
  const Run& run = record.run;
  if (!is_over(record)) {
    throw EngineError(ErrorCode::kFailedPrecondition, "WRONG_STATE",
                      fmt::format("run {} is {}: only a run that has ended can be deleted; cancel "
                                  "it first",
                                  run.id, to_string(run.state)))
        .with("state", to_string(run.state));
  }
  if (core.is_blocked(run.id)) {
    const std::lock_guard lock(core.unknown_mutex);
    throw EngineError(ErrorCode::kFailedPrecondition, "UNKNOWN_ATTEMPT",
                      describe_unknown(core.unknown.at(run.id)));
  }
  if (followed(core.table.all_committed()).contains(run.id)) {
    throw EngineError(ErrorCode::kFailedPrecondition, "FOLLOWED",
                      fmt::format("a run that has not ended is to follow run {}; it can be deleted "
                                  "when that one has ended",
                                  run.id));
  }
}

// Those that retention lets go, the oldest end first. write_mutex is held.
std::vector<std::string> to_forget(const EngineCore& core) {
  const RetentionPolicy& keep = core.options.retention;
  std::vector<RunPtr> over = core.table.all_committed();
  const std::set<std::string> needed = followed(over);
  std::erase_if(over, [&](const RunPtr& record) {
    const std::string& id = record->run.id;
    return !is_over(*record) || needed.contains(id) || core.is_blocked(id);
  });
  std::sort(over.begin(), over.end(), [](const RunPtr& a, const RunPtr& b) {
    return a->run.event_sequence < b->run.event_sequence;
  });
  const Moment now = core.moment();
  const auto count = static_cast<std::int64_t>(over.size());
  std::vector<std::string> forget;
  for (std::int64_t i = 0; i < count && forget.size() < kAtOnce; ++i) {
    const Run& run = over[static_cast<std::size_t>(i)]->run;
    const bool too_many = keep.runs > 0 && count - i > keep.runs;
    const bool too_old =
        keep.age_ns > 0 && elapsed_ns(now, run.ended_at, run.end_time_ns) > keep.age_ns;
    if (too_many || too_old) forget.push_back(run.id);
  }
  return forget;
}

// Files of runs that are out of the way until it is known whether the runs are deleted.
class MovedFiles {
 public:
  MovedFiles(const EngineOptions& options, const char* place) : options_(options), place_(place) {}
  ~MovedFiles() {
    for (const std::string& run : moved_)
      bring_run_files_back(options_, run, place_);
  }
  MovedFiles(const MovedFiles&) = delete;
  MovedFiles& operator=(const MovedFiles&) = delete;

  void move(const std::string& run) {
    move_run_files(options_, run, place_);
    moved_.push_back(run);
  }
  void leave_there() { moved_.clear(); }

 private:
  const EngineOptions& options_;
  const char* const place_;
  std::vector<std::string> moved_;
};

}  // namespace

void EngineCore::delete_runs(const std::vector<std::string>& runs, const char* place,
                             StoreWrite write) {
  MovedFiles files(options, place);
  for (const std::string& run : runs)
    files.move(run);
  write.deleted = runs;
  store_write(write);
  files.leave_there();
  for (const std::string& run : runs)
    table.erase(run);
}

void EngineCore::sweep_trash() {
  const bool busy =
      sweep.valid() && sweep.wait_for(std::chrono::seconds(0)) == std::future_status::timeout;
  if (busy) return;  // what is there now, the next sweep finds
  const auto policy = options.verify_in_tick ? std::launch::deferred : std::launch::async;
  sweep = std::async(policy, [options = options] { remove_trash(options); });
  if (options.verify_in_tick) sweep.get();
}

// At the start: runs whose deletion was cut short are here whole, or their files go.
void EngineCore::finish_deletions() {
  for (const char* place : {kTrash, kArchive}) {
    for (const std::string& run : moved_runs(options, place)) {
      if (table.committed(run)) bring_run_files_back(options, run, place);
    }
  }
  sweep_trash();
}

// Files of attempts that are over: of all but the newest few, and logs when they are old. What was
// found gone is not looked for again.
void EngineCore::prune_attempts(const std::vector<RunPtr>& runs) {
  const RetentionPolicy& keep = options.retention;
  if (keep.attempts == 0 && keep.logs_ns == 0) return;
  const Moment now = moment();
  std::size_t left = kAtOnce;
  for (const RunPtr& record : runs) {
    const auto count = static_cast<int>(record->attempts.size());
    for (const Attempt& attempt : record->attempts) {
      if (left == 0 || attempt.state != AttemptState::kEnded || attempt.slots_leased) break;
      const bool old = keep.attempts > 0 && count - attempt.number >= keep.attempts;
      const bool old_logs =
          keep.logs_ns > 0 && elapsed_ns(now, attempt.ended_at, attempt.end_time_ns) > keep.logs_ns;
      if (old || old_logs) left -= prune(record->run.id, attempt, old) ? 1 : 0;
    }
  }
  if (pruned.size() > runs.size()) {
    std::erase_if(pruned, [&](const auto& entry) { return !table.committed(entry.first); });
  }
}

// Whether there was anything to do. whole: not the logs alone.
bool EngineCore::prune(const std::string& run, const Attempt& attempt, bool whole) {
  Pruned& done = pruned[run];
  int& number = whole ? done.attempts : done.logs;
  if (number >= attempt.number) return false;
  number = attempt.number;
  const AttemptRef ref = {run, attempt.number, attempt.fence};
  try {
    if (whole) {
      attempts.remove(ref);
    } else {
      remove_logs(options, ref);
    }
  } catch (const std::exception& error) {
    log.warning("engine", "the files of attempt {} of run {} stay: {}", ref.number, run,
                error.what());
  }
  return true;
}

void EngineCore::retain(const std::vector<RunPtr>& runs) {
  const RetentionPolicy& keep = options.retention;
  if (keep == RetentionPolicy{} || !healthy || steady() < next_retention_ns) return;
  next_retention_ns = steady() + kRetentionNs;
  prune_attempts(runs);
  const bool old_requests = steady() >= next_requests_ns;
  std::vector<std::string> forget;
  {
    const std::lock_guard lock(write_mutex);
    forget = to_forget(*this);
    if (forget.empty() && !old_requests) return;
    StoreWrite write;
    if (!forget.empty()) {
      write =
          records_of({"Retention", {kActor, ""}, "", ""}, "", nlohmann::json(forget).dump(), "");
    }
    if (old_requests) {
      write.requests_before = now() - kRequestsNs;
      next_requests_ns = steady() + kRequestsEveryNs;
    }
    write.deferrable = true;
    delete_runs(forget, kTrash, std::move(write));
  }
  if (forget.empty()) return;
  log.info("engine", "{} ended runs are no longer kept", forget.size());
  sweep_trash();
  if (forget.size() == kAtOnce) next_retention_ns = steady();  // there are more
}

std::string Engine::delete_run(const DeleteRequest& request, const Caller& caller) {
  const std::string name = bare_id(request.run);
  const Call call = {"DeleteRun", caller, request.request_id, digest_of({name, request.archive})};
  const char* place = request.archive ? kArchive : kTrash;
  std::string id;
  {
    const std::lock_guard lock(core_->write_mutex);
    if (const auto served = core_->served_before(call)) {
      return request.archive ? moved_files(core_->options, *served, place) : "";
    }
    id = find(request.run)->run.id;
    const RunPtr record = core_->table.committed(id);
    try {
      require_deletable(*core_, *record);
      if (request.archive) write_archive(core_->options, *record, core_->store);
    } catch (const EngineError& error) {
      core_->record_refusal(call, id, error);
      throw;
    } catch (const core::Error& error) {
      throw EngineError(ErrorCode::kUnavailable, "STORE_ERROR",
                        std::string("nothing was deleted: ") + error.what());
    }
    core_->delete_runs({id}, place, core_->records_of(call, id, audit_view(record->run), ""));
  }
  if (request.archive) return moved_files(core_->options, id, place);
  core_->sweep_trash();
  return "";
}

std::int64_t Engine::forgotten_sequence() const {
  return core_->store.forgotten_sequence();
}

}  // namespace lockstep::coordinator
