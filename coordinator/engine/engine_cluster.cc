#include <algorithm>

#include <fmt/format.h>

#include "coordinator/engine/engine_core.h"
#include "coordinator/model/run_json.h"
#include "core/error.h"

// Hosts and who has their slots.
namespace lockstep::coordinator {
namespace {

// Only slots of attempts that may still have processes.
template <typename Visit>
void for_each_lease(const std::vector<RunPtr>& runs, const Visit& visit) {
  for (const RunPtr& record : runs) {
    for (const Attempt& attempt : record->attempts) {
      if (attempt.slots_leased) visit(*record, attempt);
    }
  }
}

bool uses_host(const RunRecord& record, const std::string& host) {
  const Attempt* attempt = record.current();
  return attempt != nullptr && attempt->slots_leased &&
         std::any_of(attempt->placements.begin(), attempt->placements.end(),
                     [&](const Placement& placement) { return placement.host == host; });
}

void fill_slots(const RunRecord& record, const Attempt& attempt, HostInfo& info) {
  int rank = 0;
  for (const Placement& placement : attempt.placements) {
    for (const int slot : placement.slots) {
      if (placement.host == info.spec.name && slot >= 0 && slot < info.spec.slots) {
        info.slots[static_cast<std::size_t>(slot)] = {slot, record.run.id, attempt.number, rank};
      }
      ++rank;
    }
  }
}

HostInfo host_info(const EngineCore& core, const HostSpec& spec) {
  HostInfo info;
  info.spec = spec;
  for (int slot = 0; slot < spec.slots; ++slot)
    info.slots.push_back({slot, "", 0, 0});
  {
    const std::lock_guard lock(core.host_mutex);
    if (const auto row = core.host_rows.find(spec.name); row != core.host_rows.end()) {
      info.drained = row->second.drained;
      info.drain_reason = row->second.drain_reason;
    }
  }
  for_each_lease(core.table.all_committed(), [&](const RunRecord& record, const Attempt& attempt) {
    fill_slots(record, attempt, info);
  });
  return info;
}

const HostSpec& spec_of(const EngineCore& core, const std::string& host) {
  for (const HostSpec& spec : core.options.hosts) {
    if (spec.name == host) return spec;
  }
  throw EngineError(ErrorCode::kNotFound, "HOST_NOT_FOUND",
                    fmt::format("there is no host '{}'", host));
}

std::string host_view(const EngineCore& core, const std::string& host) {
  const std::lock_guard lock(core.host_mutex);
  const auto row = core.host_rows.find(host);
  const bool drained = row != core.host_rows.end() && row->second.drained;
  return nlohmann::json{{"drained", drained}}.dump();
}

// write_mutex is held.
void set_drained(EngineCore& core, const HostRow& row, std::vector<RunChange> changes,
                 const Call& call) {
  StoreWrite write =
      core.records_of(call, row.name, host_view(core, row.name),
                      canonical_text({{"drained", row.drained}, {"reason", row.drain_reason}}));
  write.hosts.push_back(row);
  core.commit(changes, std::move(write));
  {
    const std::lock_guard lock(core.host_mutex);
    core.host_rows[row.name] = row;
  }
  core.schedule_due = true;
}

std::vector<RunChange> stops_on(const EngineCore& core, const std::string& host,
                                const std::string& reason, const std::string& actor) {
  std::vector<RunChange> changes;
  for (const RunPtr& record : core.table.all_committed()) {
    const Run& run = record->run;
    if (!has_attempt(run.state) || !uses_host(*record, host) ||
        run.stop_intent >= StopIntent::kHostDrain ||
        (run.state == RunState::kStopping && run.stop_intent == StopIntent::kNone)) {
      continue;
    }
    RunChange change(*record, core.moment());
    StopOrder order;
    order.reason = fmt::format("host {} is drained: {}", host, reason);
    add_stop_request(change, StopIntent::kHostDrain, actor, order);
    changes.push_back(std::move(change));
  }
  return changes;
}

}  // namespace

Cluster EngineCore::cluster() const {
  Cluster all;
  const std::lock_guard lock(host_mutex);
  for (const HostSpec& spec : options.hosts) {
    ClusterHost host;
    host.name = spec.name;
    host.kind = spec.kind;
    for (int slot = 0; slot < spec.slots; ++slot)
      host.slots.push_back(slot);
    const auto row = host_rows.find(spec.name);
    host.drained = row != host_rows.end() && row->second.drained;
    all.hosts.push_back(std::move(host));
  }
  return all;
}

// The scheduler compares moments of the wall clock; those that it gets are counted back from now by
// the steady one, so that a step of the wall clock moves nobody in line.
std::vector<Lease> EngineCore::leases(const std::vector<RunPtr>& runs, const Moment& now) const {
  std::vector<Lease> all;
  for_each_lease(runs, [&](const RunRecord& record, const Attempt& attempt) {
    Lease lease;
    lease.run = record.run.id;
    lease.placements = attempt.placements;
    if (record.run.time_limit_ns > 0) {
      const bool started = attempt.start_time_ns > 0;
      const std::int64_t passed = started
                                      ? elapsed_ns(now, attempt.started_at, attempt.start_time_ns)
                                      : elapsed_ns(now, attempt.created_at, attempt.create_time_ns);
      lease.end_ns = now.unix_ns - passed + record.run.time_limit_ns;
    }
    all.push_back(std::move(lease));
  });
  const std::lock_guard lock(unknown_mutex);
  for (const auto& [run, attempt] : unknown) {
    if (attempt.found.ended || !attempt.found.spec) continue;
    Lease lease;
    lease.run = run;
    for (const HostSlots& host : attempt.found.spec->hosts)
      lease.placements.push_back({host.host, host.slots});
    all.push_back(std::move(lease));
  }
  return all;
}

std::vector<QueuedRun> EngineCore::queued_runs(const std::vector<RunPtr>& runs,
                                               const Moment& now) const {
  std::vector<QueuedRun> queued;
  for (const RunPtr& record : runs) {
    const Run& run = record->run;
    if (run.state != RunState::kQueued || is_blocked(run.id)) continue;
    const std::int64_t queued_ns = now.unix_ns - elapsed_ns(now, run.queued_at, run.queue_time_ns);
    queued.push_back(
        {run.id, run.priority, queued_ns, run.resources, run.device_kind, run.time_limit_ns});
  }
  return queued;
}

Plan EngineCore::current_plan() const {
  const auto runs = table.all_committed();
  const Moment time = moment();
  return plan(cluster(), leases(runs, time), queued_runs(runs, time), time.unix_ns);
}

// A host that was renamed or has lost slots would be given away a second time.
void EngineCore::require_hosts(const std::vector<HostSpec>& hosts) const {
  for_each_lease(table.all_committed(), [&](const RunRecord& record, const Attempt& attempt) {
    for (const Placement& placement : attempt.placements) {
      const auto host = std::find_if(hosts.begin(), hosts.end(), [&](const HostSpec& spec) {
        return spec.name == placement.host;
      });
      const int last = placement.slots.empty()
                           ? -1
                           : *std::max_element(placement.slots.begin(), placement.slots.end());
      if (host != hosts.end() && last < host->slots) continue;
      throw core::Error(
          core::ErrorKind::kConfig,
          host == hosts.end()
              ? fmt::format(
                    "hosts: run {} has slots of host {}, which is not in the configuration; "
                    "keep that name until the run has ended",
                    record.run.id, placement.host)
              : fmt::format("hosts: run {} has slot {} of host {}, which has {} slots in the "
                            "configuration; keep them until the run has ended",
                            record.run.id, last, placement.host, host->slots));
    }
  });
}

void Engine::require_hosts(const std::vector<HostSpec>& hosts) const {
  core_->require_hosts(hosts);
}

std::vector<HostInfo> Engine::hosts() const {
  std::vector<HostInfo> all;
  for (const HostSpec& spec : core_->options.hosts)
    all.push_back(host_info(*core_, spec));
  return all;
}

HostInfo Engine::drain(const std::string& host, const std::string& reason, bool stop_runs,
                       const std::string& request_id, const Caller& caller) {
  const HostSpec& spec = spec_of(*core_, host);
  const Call call = {"DrainHost", caller, request_id, digest_of({host, reason, stop_runs})};
  {
    const std::lock_guard lock(core_->write_mutex);
    if (!core_->served_before(call)) {
      std::vector<RunChange> changes;
      if (stop_runs) changes = stops_on(*core_, host, reason, caller.name);
      set_drained(*core_, {host, true, reason}, std::move(changes), call);
    }
  }
  return host_info(*core_, spec);
}

HostInfo Engine::undrain(const std::string& host, const std::string& request_id,
                         const Caller& caller) {
  const HostSpec& spec = spec_of(*core_, host);
  const Call call = {"UndrainHost", caller, request_id, digest_of({host})};
  {
    const std::lock_guard lock(core_->write_mutex);
    if (!core_->served_before(call)) set_drained(*core_, {host, false, ""}, {}, call);
  }
  return host_info(*core_, spec);
}

}  // namespace lockstep::coordinator
