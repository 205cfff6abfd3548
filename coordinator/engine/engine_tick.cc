#include <algorithm>
#include <chrono>

#include <fmt/format.h>

#include "coordinator/engine/attempt_files.h"
#include "coordinator/engine/engine_core.h"
#include "coordinator/model/failpoint.h"
#include "coordinator/model/retry_rules.h"
#include "coordinator/model/run_json.h"
#include "coordinator/model/sha256.h"
#include "core/error.h"

// What time does: queueing, starting, finding again.
namespace lockstep::coordinator {
namespace {

constexpr const char* kActor = "coordinator";
constexpr int kSecretBytes = 32;
constexpr std::int64_t kProbeNs = kSecond;
constexpr std::int64_t kScheduleNs = kSecond;

std::uint64_t seed_of(const EngineOptions& options) {
  return options.seed != 0 ? options.seed : std::hash<std::string>{}(random_hex(kSecretBytes));
}

// The first attempt is told what the run was made for; later ones go on from what is there.
std::string resume_of(const RunRecord& record) {
  return record.run.current_attempt == 0 ? record.run.resume_from : "auto";
}

// A dependency that can never be satisfied any more ends the run that waits for it.
bool fail_dependency(RunChange& change, const Run& other) {
  if (other.state != RunState::kFailed && other.state != RunState::kCancelled) return false;
  change.add(EventKind::kTerminal, kActor,
             {{"state", to_string(RunState::kFailed)},
              {"category", to_string(FailureCategory::kDependency)},
              {"reason", "DEPENDENCY"},
              {"message", fmt::format("run {}, which it was to follow, is {}", other.id,
                                      to_string(other.state))}});
  return true;
}

void decide_waiting(RunChange& change, const RunTable& table) {
  const std::vector<std::string> pending = change.run().after_pending;
  for (const std::string& id : pending) {
    const RunPtr other = table.committed(id);
    if (!other) continue;  // quarantined: neither is known of it
    if (fail_dependency(change, other->run)) return;
    if (other->run.state == RunState::kSucceeded) {
      change.add(EventKind::kDependencySatisfied, kActor, {{"run", id}});
    }
  }
  if (!change.run().hold && change.run().after_pending.empty()) {
    change.add(EventKind::kQueued, kActor);
  }
}

}  // namespace

EngineCore::EngineCore(Store& store_, AttemptHost& attempts_, Checkpoints& checkpoints_,
                       const Clock& clock_, core::Logger& log_, EngineOptions options_)
    : store(store_),
      attempts(attempts_),
      checkpoints(checkpoints_),
      clock(clock_),
      log(log_),
      options(std::move(options_)),
      ids(seed_of(options)),
      random(seed_of(options) + 1) {
  start_up();
}

std::int64_t EngineCore::backoff_left_ns(const Run& run, const Moment& now) const {
  const bool same_boot =
      !run.backoff_until.boot.empty() && run.backoff_until.boot == now.steady.boot;
  if (same_boot) return run.backoff_until.ns - now.steady.ns;
  // The machine was started anew, and its wall clock may be wrong: from this start on at most as
  // long as any pause.
  const std::int64_t latest = began_ns + retry_delay_ns(run.retry_policy, 62, 1.0);
  return std::min(run.backoff_until_ns - now.unix_ns, latest - now.steady.ns);
}

double EngineCore::jitter() {
  return std::uniform_real_distribution<double>(-1.0, 1.0)(random);
}

void EngineCore::start_up() {
  StoreContents contents = store.load();
  fence = contents.fence;
  quarantined = std::move(contents.quarantined);
  for (const QuarantinedRun& run : quarantined) {
    ids.known(run.id);
    log.error("engine", "run {} is quarantined: {}", run.id, run.problem);
  }
  for (RunRecord& record : contents.runs) {
    ids.known(record.run.id);
    table.load(std::make_shared<RunRecord>(std::move(record)));
  }
  table.set_newest_sequence(store.next_sequence() - 1);
  for (const TokenRow& row : contents.tokens)
    tokens[row.name] = row;
  for (const HostRow& row : contents.hosts)
    host_rows[row.name] = row;
  require_hosts(options.hosts);
  find_attempts();
  finish_deletions();
  for (const std::string& finding : contents.findings)
    log.error("engine", "{}", finding);
  try {
    for (const RunPtr& record : table.all_committed()) {
      if (!has_attempt(record->run.state)) continue;
      RunChange change(*record, moment());
      change.add(EventKind::kCoordinatorRestarted, kActor);
      StoreWrite write;
      write.deferrable = true;
      const std::lock_guard lock(write_mutex);
      commit(std::move(change), std::move(write));
    }
  } catch (const EngineError& error) {
    // A store that cannot be written just now can still be read.
    log.error("engine", "{}", error.what());
  }
}

void EngineCore::run_tick() {
  const std::lock_guard lock(tick_mutex);
  if (!healthy && steady() >= next_probe_ns) {
    next_probe_ns = steady() + kProbeNs;
    const std::lock_guard write_lock(write_mutex);
    StoreWrite probe;
    probe.fence = fence;
    probe.deferrable = true;
    if (store.has_room()) store_write(probe);
  }
  stop_orphans();
  watch_unknown();
  const std::vector<RunPtr> runs = table.all_committed();
  watch_attempts(runs);
  queue_what_is_due(runs);
  retain(runs);
  if (!healthy) return;  // what is started now could not be written down
  if (schedule_due.exchange(false) || steady() >= next_schedule_ns) {
    next_schedule_ns = steady() + kScheduleNs;
    schedule_starts();
  }
}

// Attempts that have ended to the store, and of which something still lives: nobody waits for them,
// and they may write nothing.
void EngineCore::stop_orphans() {
  std::erase_if(orphans, [&](const AttemptRef& ref) {
    try {
      const AttemptStatus status = attempts.poll(ref);
      if (status.phase == AttemptPhase::kEnded || status.phase == AttemptPhase::kAbsent) {
        return true;
      }
      StopRequest request;
      request.force = true;
      request.cause = FailureCategory::kCoordinator;
      request.message = "the store has this attempt as ended";
      attempts.stop(ref, request);
    } catch (const std::exception& error) {
      log.error("engine", "attempt {} of run {}: {}", ref.number, ref.run, error.what());
    }
    return false;
  });
}

void EngineCore::queue_what_is_due(const std::vector<RunPtr>& runs) {
  const Moment time = moment();
  for (const RunPtr& record : runs) {
    const Run& run = record->run;
    if (run.state == RunState::kBackoff && backoff_left_ns(run, time) <= 0) {
      change_run(run.id, [&](RunChange& change) {
        if (change.run().state != RunState::kBackoff) return;
        change.add(EventKind::kQueued, kActor, {{"reason", "RETRY"}});
      });
    } else if (run.state == RunState::kWaiting && (!run.hold || !run.after_pending.empty())) {
      change_run(run.id, [&](RunChange& change) {
        if (change.run().state == RunState::kWaiting) decide_waiting(change, table);
      });
    }
  }
}

void EngineCore::schedule_starts() {
  const Plan planned = current_plan();
  for (const Start& start : planned.starts) {
    RunPtr record = table.committed(start.run);
    const AttemptRef next = {start.run, record->run.current_attempt + 1, 0};
    const std::string secret = random_hex(kSecretBytes);
    try {
      write_config_file(options, record->run);
      write_token_file(options, next, secret);
    } catch (const core::Error& error) {
      log.error("engine", "run {} cannot be started now: {}", start.run, error.what());
      continue;
    }
    bool created = false;
    {
      const std::lock_guard lock(write_mutex);
      record = table.committed(start.run);
      RunChange change(*record, moment());
      if (change.run().state != RunState::kQueued) continue;
      StoreWrite write;
      write.fence = fence + 1;
      change.add(EventKind::kAttemptCreated, "scheduler",
                 {{"number", next.number},
                  {"fence", fence + 1},
                  {"placements", start.placements},
                  {"resume", resume_of(*record)},
                  {"agent_token_hash", sha256_hex(secret)}});
      record = commit(std::move(change), std::move(write));
      ++fence;
      created = true;
    }
    if (created) launch_attempt(record);
  }
}

}  // namespace lockstep::coordinator
