#include "coordinator/engine/engine.h"

#include <filesystem>

#include "coordinator/engine/engine_core.h"
#include "core/error.h"

// Construction, reads, and what has no better place.
namespace lockstep::coordinator {

Engine::Engine(Store& store, AttemptHost& attempts, Checkpoints& checkpoints, const Clock& clock,
               core::Logger& log, EngineOptions options)
    : core_(std::make_unique<EngineCore>(store, attempts, checkpoints, clock, log,
                                         std::move(options))) {}

Engine::~Engine() = default;

RunPtr Engine::find(const std::string& name) const {
  for (const QuarantinedRun& run : core_->quarantined) {
    if (run.id != bare_id(name)) continue;
    throw EngineError(ErrorCode::kFailedPrecondition, "QUARANTINED",
                      "the store's part of run " + run.id + " is corrupt: " + run.problem);
  }
  {
    const std::lock_guard lock(core_->unknown_mutex);
    const auto unknown = core_->unknown.find(bare_id(name));
    if (unknown != core_->unknown.end() && !core_->table.committed(unknown->first)) {
      throw EngineError(ErrorCode::kFailedPrecondition, "UNKNOWN_ATTEMPT",
                        describe_unknown(unknown->second));
    }
  }
  return core_->table.find(name);
}

std::vector<RunPtr> Engine::list() const {
  return core_->table.list();
}

std::vector<Event> Engine::events(const std::string& run, std::int64_t after_sequence,
                                  int limit) const {
  return core_->store.events(run, after_sequence, limit);
}

std::int64_t Engine::newest_sequence() const {
  return core_->table.newest_sequence();
}

std::vector<CheckpointInfo> Engine::list_checkpoints(const std::string& name, bool verify) const {
  return core_->checkpoints.list(find(name)->run.output, verify);
}

std::vector<PendingReason> Engine::quarantined() const {
  std::vector<PendingReason> all;
  for (const QuarantinedRun& run : core_->quarantined)
    all.push_back({run.id, run.problem});
  return all;
}

std::vector<AuditEvent> Engine::audit_events(std::int64_t after_sequence, int limit) const {
  std::vector<AuditEvent> all;
  for (const AuditRow& row : core_->store.audit(after_sequence, limit)) {
    all.push_back({row.sequence, row.time_ns, row.actor, row.peer, row.method, row.resource,
                   row.before_json, row.after_json, row.result, row.hash});
  }
  return all;
}

void Engine::record_refusal(const Caller& caller, const std::string& method,
                            const std::string& resource, ErrorCode code) {
  const std::lock_guard lock(core_->write_mutex);
  core_->record_refusal({method, caller, "", ""}, resource, EngineError(code, "", ""));
}

StoreCheck Engine::check_store() const {
  StoreReport report = core_->store.check();
  for (const PendingReason& unknown : unknown_attempts())
    report.problems.push_back(unknown.message);
  return {report.problems.empty(), report.problems, report.runs, report.events,
          report.audit_events};
}

std::int64_t Engine::backup(const std::string& path, const Caller& caller) {
  if (!std::filesystem::path(path).is_absolute()) {
    EngineError error(ErrorCode::kInvalidArgument, "INVALID_FIELD", "path must be absolute");
    throw error.violates("path", "must be absolute, on the coordinator's host");
  }
  std::int64_t bytes = 0;
  try {
    bytes = core_->store.backup(path);
  } catch (const core::Error& error) {
    throw EngineError(ErrorCode::kAlreadyExists, "BACKUP_EXISTS", error.what());
  } catch (const StoreError& error) {
    throw EngineError(ErrorCode::kUnavailable, "STORE_ERROR", error.what());
  }
  const std::lock_guard lock(core_->write_mutex);
  StoreWrite write = core_->records_of({"BackupStore", caller, "", ""}, path, "", "");
  core_->store_write(write);
  return bytes;
}

int Engine::schema_version() const {
  return Store::schema_version();
}
bool Engine::store_healthy() const {
  return core_->healthy;
}

void Engine::tick() {
  core_->run_tick();
}

std::int64_t Engine::subscribe(Listener listener) {
  return core_->table.subscribe(std::move(listener));
}
void Engine::unsubscribe(std::int64_t id) {
  core_->table.unsubscribe(id);
}
std::int64_t Engine::wait_for_change(std::int64_t sequence, std::int64_t timeout_ns) const {
  return core_->table.wait_for_change(sequence, timeout_ns);
}

}  // namespace lockstep::coordinator
