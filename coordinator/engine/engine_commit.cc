#include <algorithm>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "coordinator/engine/attempt_files.h"
#include "coordinator/engine/engine_core.h"
#include "coordinator/model/run_json.h"
#include "coordinator/model/sha256.h"
#include "core/error.h"

// The one way from a decision to the disk to memory to those who watch.
namespace lockstep::coordinator {
namespace {

constexpr std::int64_t kStoreRetryNs = 5 * kSecond;

EngineError store_error(const std::string& message, bool full) {
  EngineError error(full ? ErrorCode::kResourceExhausted : ErrorCode::kUnavailable,
                    full ? "DISK_FULL" : "STORE_ERROR",
                    fmt::format("nothing was changed: {}", message));
  error.retry_after(kStoreRetryNs);
  return error;
}

}  // namespace

std::string digest_of(const nlohmann::json& arguments) {
  return sha256_hex(canonical_text(arguments));
}

std::string audit_view(const Run& run) {
  return canonical_text({{"state", to_string(run.state)},
                         {"stop_intent", to_string(run.stop_intent)},
                         {"hold", run.hold},
                         {"priority", run.priority},
                         {"display_name", run.display_name},
                         {"labels", run.labels},
                         {"notes", run.notes},
                         {"time_limit_ns", run.time_limit_ns},
                         {"run_sequence", run.run_sequence}});
}

void EngineCore::store_write(StoreWrite& write) {
  try {
    store.commit(write);
  } catch (const StoreError& error) {
    healthy = false;
    throw store_error(error.what(), error.fault() == StoreFault::kFull);
  } catch (const core::Error& error) {
    healthy = false;
    throw store_error(error.what(), false);
  }
  healthy = store.has_room();
}

std::vector<RunPtr> EngineCore::commit(std::vector<RunChange>& changes, StoreWrite write) {
  std::int64_t sequence = store.next_sequence();
  std::vector<RunPtr> records;
  for (RunChange& change : changes) {
    change.number(sequence);
    sequence += static_cast<std::int64_t>(change.events().size());
    records.push_back(std::make_shared<RunRecord>(change.record()));
    if (change.empty()) continue;
    write.events.insert(write.events.end(), change.events().begin(), change.events().end());
    write.rows.push_back(records.back());
  }
  store_write(write);
  for (std::size_t i = 0; i < changes.size(); ++i) {
    if (changes[i].empty()) continue;
    table.publish(records[i], changes[i].events());
    if (records[i]->run.current_attempt > 0) write_record_file(options, *records[i], false);
    schedule_due = true;
  }
  return records;
}

RunPtr EngineCore::commit(RunChange change, StoreWrite write) {
  std::vector<RunChange> changes;
  changes.push_back(std::move(change));
  return commit(changes, std::move(write)).front();
}

RunPtr EngineCore::change_run(const std::string& id,
                              const std::function<void(RunChange&)>& decide) {
  const std::lock_guard lock(write_mutex);
  const RunPtr record = table.committed(id);
  RunChange change(*record, moment());
  decide(change);
  if (change.empty()) return record;
  return commit(std::move(change));
}

std::optional<std::string> EngineCore::served_before(const Call& call) const {
  if (call.request_id.empty()) return std::nullopt;
  const auto served = store.find_request(call.caller.name, call.request_id);
  if (!served) return std::nullopt;
  if (served->method != call.method || served->digest != call.digest) {
    throw EngineError(
        ErrorCode::kAlreadyExists, "REQUEST_ID_REUSED",
        fmt::format("request_id {} was used before for another call ({}); make a new one",
                    call.request_id, served->method));
  }
  return served->resource;
}

// What stops and ends runs, and whatever keeps strangers out, is written also when the disk is full.
static bool is_urgent(const std::string& method) {
  static const std::set<std::string> kUrgent = {"CancelRun",   "PauseRun",     "DrainHost",
                                                "RevokeToken", "AdoptAttempt", "EndAttempt",
                                                "DeleteRun"};
  return kUrgent.contains(method);
}

StoreWrite EngineCore::records_of(const Call& call, const std::string& resource,
                                  const std::string& before, const std::string& after) {
  StoreWrite write;
  AuditRow audit;
  audit.time_ns = now();
  audit.actor = call.caller.name;
  audit.peer = call.caller.peer;
  audit.method = call.method;
  audit.resource = resource;
  audit.before_json = before;
  audit.after_json = after;
  audit.result = "OK";
  write.audit = std::move(audit);
  write.deferrable = !is_urgent(call.method);
  if (!call.request_id.empty()) {
    write.request =
        ServedRequest{call.caller.name, call.request_id, call.method, call.digest, resource};
  }
  return write;
}

void EngineCore::record_refusal(const Call& call, const std::string& resource,
                                const EngineError& error) {
  Call unserved = call;
  unserved.request_id.clear();  // the same id may be tried again
  StoreWrite write = records_of(unserved, resource, "", "");
  write.audit->result = to_string(error.code());
  write.deferrable = true;
  try {
    store_write(write);
  } catch (const EngineError& failed) {
    log.warning("engine", "a refusal of {} is not in the audit log: {}", call.method,
                failed.what());
  }
}

RunPtr EngineCore::verb(const Call& call, const std::string& name,
                        const std::function<void(RunChange&)>& decide) {
  const std::string id = table.find(name)->run.id;
  const std::lock_guard lock(write_mutex);
  if (const auto served = served_before(call)) return table.find(*served);
  const RunPtr before = table.committed(id);
  RunChange change(*before, moment());
  try {
    decide(change);
  } catch (const EngineError& error) {
    record_refusal(call, id, error);
    throw;
  }
  StoreWrite write = records_of(call, id, audit_view(before->run), audit_view(change.run()));
  commit(std::move(change), std::move(write));
  return table.find(id);
}

}  // namespace lockstep::coordinator
