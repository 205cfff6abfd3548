#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "coordinator/attempts/attempt_files.h"
#include "coordinator/engine/attempt_files.h"
#include "coordinator/engine/config_check.h"
#include "coordinator/engine/engine_core.h"
#include "coordinator/model/run_json.h"
#include "coordinator/model/sha256.h"
#include "core/error.h"

// A store that is empty, missing or older than what runs: attempts are compared with it at the
// start. What it does not know is taken up from its own files; where those are not whole it is
// named, left alone, and ended only if a person says so.
namespace lockstep::coordinator {
namespace {

constexpr const char* kActor = "coordinator";

EngineError cannot_adopt(const std::string& run, const std::string& why) {
  return {ErrorCode::kFailedPrecondition, "CANNOT_ADOPT",
          fmt::format("run {} cannot be adopted: {}", run, why)};
}

const Attempt* attempt_of(const RunRecord& record, int number) {
  for (const Attempt& attempt : record.attempts) {
    if (attempt.number == number) return &attempt;
  }
  return nullptr;
}

// Why these slots cannot be leased to the run; empty: they can.
std::string why_not_free(const EngineCore& core, const std::string& run,
                         const std::vector<Placement>& placements) {
  std::set<std::pair<std::string, int>> taken;
  for (const Lease& lease : core.leases(core.table.all_committed(), core.moment())) {
    if (lease.run == run) continue;
    for (const Placement& placement : lease.placements) {
      for (const int slot : placement.slots)
        taken.emplace(placement.host, slot);
    }
  }
  for (const Placement& placement : placements) {
    const auto host =
        std::find_if(core.options.hosts.begin(), core.options.hosts.end(),
                     [&](const HostSpec& spec) { return spec.name == placement.host; });
    if (host == core.options.hosts.end()) {
      return fmt::format("it runs on host {}, which the configuration does not have",
                         placement.host);
    }
    for (const int slot : placement.slots) {
      if (slot >= host->slots) {
        return fmt::format("it runs on slot {} of host {}, which has {} slots in the configuration",
                           slot, placement.host, host->slots);
      }
      if (taken.contains({placement.host, slot})) {
        return fmt::format("slot {} of host {} is leased to another run", slot, placement.host);
      }
    }
  }
  return "";
}

void require_adoptable(const EngineCore& core, const RunRecord& found) {
  const Run& run = found.run;
  if (is_terminal(run.state)) throw cannot_adopt(run.id, "its record says that it has ended");
  if (sha256_hex(run.texts->resolved_config) != run.config_sha256) {
    throw cannot_adopt(run.id, "its configuration does not have its hash");
  }
  const RunPtr known = core.table.committed(run.id);
  if (known && is_terminal(known->run.state)) {
    throw cannot_adopt(run.id, fmt::format("the store has it as {}", to_string(known->run.state)));
  }
  if (!has_attempt(run.state)) return;
  const std::string why = why_not_free(core, run.id, found.attempts.back().placements);
  if (!why.empty()) throw cannot_adopt(run.id, why);
}

Run run_of_launch(const LaunchSpec& spec, const std::string& config, const Caller& caller,
                  std::int64_t now_ns) {
  const CheckedConfig checked = check_config(config, "config.yaml", {}, spec.ranks());
  Run run;
  run.id = spec.attempt.run;
  run.owner = caller.name;
  run.display_name = checked.name;
  auto texts = std::make_shared<RunTexts>();
  texts->config_yaml = texts->resolved_config = config;
  texts->config_source = "config.yaml";
  run.config_sha256 = sha256_hex(config);
  run.texts = std::move(texts);
  run.output = spec.output;
  run.device_kind = checked.device_kind;
  run.resources.ranks = spec.ranks();
  run.resume_from = "auto";
  run.create_time_ns = run.queue_time_ns = run.start_time_ns = now_ns;
  return run;
}

// A record made of what was launched, when the one that was kept is not whole.
RunRecord record_of_launch(const EngineCore& core, const LaunchSpec& spec, const Caller& caller) {
  const std::string directory =
      fmt::format("{}/runs/{}", core.options.state_directory, spec.attempt.run);
  const auto config = read_small_file(directory, "config.yaml");
  if (!config) throw cannot_adopt(spec.attempt.run, directory + "/config.yaml is not there");
  const RunPtr known = core.table.committed(spec.attempt.run);
  RunRecord record = known ? *known : RunRecord{};
  if (!known) record.run = run_of_launch(spec, *config, caller, core.now());
  record.run.state = RunState::kStarting;
  record.run.state_time_ns = core.now();
  record.run.current_attempt = spec.attempt.number;
  while (static_cast<int>(record.attempts.size()) < spec.attempt.number) {
    Attempt attempt;  // of earlier ones nothing is known but that they are over
    attempt.number = static_cast<int>(record.attempts.size()) + 1;
    attempt.state = AttemptState::kEnded;
    attempt.slots_leased = false;
    record.attempts.push_back(attempt);
  }
  Attempt& now = record.attempts.back();
  now.fence = spec.attempt.fence;
  now.state = AttemptState::kLaunching;
  now.slots_leased = true;
  now.resume = spec.resume;
  now.create_time_ns = core.now();
  now.created_at = core.clock.boot_time();
  for (const HostSlots& host : spec.hosts)
    now.placements.push_back({host.host, host.slots});
  const auto secret = read_small_file(directory, fmt::format("agent-{}.token", now.number));
  if (secret) now.agent_token_hash = sha256_hex(*secret);
  return record;
}

}  // namespace

std::string describe_unknown(const UnknownAttempt& attempt) {
  const AttemptRef& ref = attempt.found.ref;
  return fmt::format(
      "attempt {} of run {} {} and is not in the store: {}; 'lockstep admin adopt {}' takes it up, "
      "'lockstep admin end {}' ends it",
      ref.number, ref.run, attempt.found.ended ? "has ended" : "is alive", attempt.problem, ref.run,
      ref.run);
}

RunPtr EngineCore::adopt(const RunRecord& found, const std::string& actor, StoreWrite write) {
  require_adoptable(*this, found);
  const RunPtr known = table.committed(found.run.id);
  const RunRecord before = known ? *known : RunRecord{};
  RunChange change(before, moment());
  try {
    change.add(EventKind::kAdopted, actor, {{"record", found}});
  } catch (const core::Error& error) {
    throw cannot_adopt(found.run.id, error.what());
  }
  if (!known) change.set_texts(found.run.texts);
  write.new_texts = !known;
  if (!found.attempts.empty()) fence = std::max(fence, found.attempts.back().fence);
  write.fence = fence;
  ids.known(found.run.id);
  RunPtr record = commit(std::move(change), std::move(write));
  const std::lock_guard lock(unknown_mutex);
  unknown.erase(found.run.id);
  return record;
}

void EngineCore::find_attempts() {
  std::set<std::string> damaged;
  for (const QuarantinedRun& run : quarantined)
    damaged.insert(run.id);
  const auto all = attempts.find_all([&](const std::string& run) {
    const RunPtr record = table.committed(run);
    return record && is_terminal(record->run.state) &&
           std::none_of(record->attempts.begin(), record->attempts.end(),
                        [](const Attempt& attempt) { return attempt.slots_leased; });
  });
  for (const FoundAttempt& found : all) {
    const AttemptRef& ref = found.ref;
    fence = std::max(fence, ref.fence);
    const RunPtr record = table.committed(ref.run);
    const Attempt* known = record ? attempt_of(*record, ref.number) : nullptr;
    if (known != nullptr && known->fence == ref.fence) {
      const bool is_live = has_attempt(record->run.state) && record->current_ref() == ref;
      if (is_live || found.ended) continue;
      log.warning("engine",
                  "attempt {} of run {} has ended, to the store, and still lives; it is ended",
                  ref.number, ref.run);
      orphans.push_back(ref);
      continue;
    }
    // Of what is over only the attempt counts that a live run would make anew.
    const bool next = record && !is_terminal(record->run.state) && known == nullptr;
    if (found.ended && !next) continue;
    UnknownAttempt& entry = unknown[ref.run];
    if (entry.found.ref.number > ref.number) continue;
    entry = {found, damaged.contains(ref.run) ? "the store's part of the run is corrupt" : "", {}};
  }
  std::vector<FoundAttempt> candidates;
  for (const auto& [run, attempt] : unknown) {
    if (attempt.problem.empty()) candidates.push_back(attempt.found);
    ids.known(run);
  }
  for (const FoundAttempt& found : candidates) {
    const std::lock_guard lock(write_mutex);
    std::string problem;
    try {
      const RunRecord kept = read_record_file(options, found.ref.run);
      if (!has_attempt(kept.run.state) || kept.current_ref() != found.ref) {
        throw core::Error(core::ErrorKind::kData, "its record is of another attempt");
      }
      adopt(kept, kActor,
            records_of({"AdoptAttempt", {kActor, ""}, "", ""}, found.ref.run, "", ""));
      log.warning("engine",
                  "attempt {} of run {} was not in the store; it was adopted from its files",
                  found.ref.number, found.ref.run);
      continue;
    } catch (const std::exception& error) {
      problem = error.what();
    }
    const std::lock_guard unknown_lock(unknown_mutex);
    unknown.at(found.ref.run).problem = problem;
  }
  for (const auto& [run, attempt] : unknown)
    log.error("engine", "{}", describe_unknown(attempt));
}

bool EngineCore::is_blocked(const std::string& run) const {
  const std::lock_guard lock(unknown_mutex);
  return unknown.contains(run);
}

void EngineCore::watch_unknown() {
  std::map<std::string, UnknownAttempt> all;
  {
    const std::lock_guard lock(unknown_mutex);
    all = unknown;
  }
  for (auto& [run, attempt] : all) {
    try {
      FoundAttempt& found = attempt.found;
      if (!found.ended) {
        const AttemptPhase phase = attempts.poll(found.ref).phase;
        found.ended = phase == AttemptPhase::kEnded || phase == AttemptPhase::kAbsent;
        if (found.ended) log.warning("engine", "{}", describe_unknown(attempt));
      }
      if (!found.ended && attempt.stop) attempts.stop(found.ref, *attempt.stop);
      const bool over = found.ended && attempt.stop;
      if (over) attempts.set_aside(found.ref);
      const std::lock_guard lock(unknown_mutex);
      const auto entry = unknown.find(run);
      if (entry == unknown.end()) continue;
      entry->second.found.ended = found.ended;
      if (over) unknown.erase(entry);
      if (over || found.ended) schedule_due = true;
    } catch (const std::exception& error) {
      log.error("engine", "attempt {} of run {}: {}", attempt.found.ref.number, run, error.what());
    }
  }
}

std::vector<PendingReason> Engine::unknown_attempts() const {
  const std::lock_guard lock(core_->unknown_mutex);
  std::vector<PendingReason> all;
  for (const auto& [run, attempt] : core_->unknown)
    all.push_back({run, describe_unknown(attempt)});
  return all;
}

RunPtr Engine::adopt(const std::string& run, const std::string& request_id, const Caller& caller) {
  const std::string id = bare_id(run);
  const Call call = {"AdoptAttempt", caller, request_id, digest_of({id})};
  const std::lock_guard lock(core_->write_mutex);
  if (const auto served = core_->served_before(call)) return core_->table.find(*served);
  std::optional<UnknownAttempt> unknown;
  {
    const std::lock_guard unknown_lock(core_->unknown_mutex);
    const auto entry = core_->unknown.find(id);
    if (entry != core_->unknown.end()) unknown = entry->second;
  }
  try {
    RunRecord found;
    try {
      attempt_directory(core_->options.state_directory, {id, 1, 0});  // throws unless it is an id
      found = read_record_file(core_->options, id);
      if (unknown && (!has_attempt(found.run.state) || found.current_ref() != unknown->found.ref)) {
        throw core::Error(core::ErrorKind::kData, "its record is of another attempt");
      }
    } catch (const core::Error& error) {
      if (!unknown) {
        throw EngineError(
            ErrorCode::kNotFound, "RUN_NOT_FOUND",
            fmt::format("there is nothing of a run '{}' to adopt: {}", run, error.what()));
      }
      if (!unknown->found.spec) throw cannot_adopt(id, "its launch.json cannot be read");
      found = record_of_launch(*core_, *unknown->found.spec, caller);
    }
    return core_->adopt(found, caller.name, core_->records_of(call, id, "", audit_view(found.run)));
  } catch (const EngineError& error) {
    core_->record_refusal(call, id, error);
    throw;
  }
}

void Engine::end_unknown(const std::string& run, bool force, const std::string& request_id,
                         const Caller& caller) {
  const std::string id = bare_id(run);
  const Call call = {"EndAttempt", caller, request_id, digest_of({id, force})};
  const std::lock_guard lock(core_->write_mutex);
  if (core_->served_before(call)) return;
  {
    const std::lock_guard unknown_lock(core_->unknown_mutex);
    if (!core_->unknown.contains(id)) {
      throw EngineError(
          ErrorCode::kNotFound, "RUN_NOT_FOUND",
          fmt::format("run '{}' has no attempt that the store does not know; 'lockstep "
                      "cancel' ends those that it does",
                      run));
    }
  }
  StoreWrite write = core_->records_of(call, id, "", "");
  core_->store_write(write);
  StopRequest stop;
  stop.force = force;
  stop.message = fmt::format("ended by {}", caller.name);
  const std::lock_guard unknown_lock(core_->unknown_mutex);
  const auto entry = core_->unknown.find(id);
  if (entry != core_->unknown.end()) entry->second.stop = stop;
}

}  // namespace lockstep::coordinator
