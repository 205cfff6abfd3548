#include <algorithm>
#include <filesystem>
#include <set>

#include <fmt/format.h>

#include "coordinator/engine/config_check.h"
#include "coordinator/engine/engine_core.h"
#include "coordinator/model/coordinator_policy.h"
#include "coordinator/model/failpoint.h"
#include "coordinator/model/run_json.h"
#include "coordinator/model/sha256.h"
#include "coordinator/model/verbs.h"

// New runs: submitted, or children of ended ones.
namespace lockstep::coordinator {
namespace {

using nlohmann::json;

void check_fields(const CreateRequest& request, const EngineOptions& options,
                  const Caller& caller) {
  EngineError error(ErrorCode::kInvalidArgument, "INVALID_FIELD", "the request is not valid");
  const auto require = [&](bool holds, const char* field, const std::string& text) {
    if (!holds) error.violates(field, text);
  };
  const RetryPolicy& retry = request.retry_policy;
  require(request.resources.ranks >= 1, "run.resources.ranks", "must be at least 1");
  require(request.resources.ranks_per_host >= 0, "run.resources.ranks_per_host",
          "must not be negative");
  require(
      request.priority >= -kMaxPriority && request.priority <= caller.max_priority, "run.priority",
      fmt::format("must be from {} to {}{}", -kMaxPriority, caller.max_priority,
                  caller.max_priority < kMaxPriority ? ", which is what this token may give" : ""));
  for (const auto& [name, value] : request.environment) {
    require(allows_variable(options.environment.runs, name), "run.environment",
            fmt::format("'{}' is not among the variables that a run may set; environment.runs in "
                        "the coordinator's configuration names those",
                        name));
    require(value.find('\0') == std::string::npos, "run.environment", name + " holds a NUL");
  }
  require(request.time_limit_ns >= 0, "run.time_limit", "must not be negative");
  require(retry.base_delay_ns >= 0 && retry.max_delay_ns >= retry.base_delay_ns, "run.retry_policy",
          "delays must not be negative, and base_delay at most max_delay");
  require(retry.max_restarts >= -1, "run.retry_policy.max_restarts", "must be at least -1");
  if (!error.violations().empty()) throw error;
}

json arguments_of(const CreateRequest& request) {
  json arguments = {request.display_name,  request.labels,       request.notes,
                    request.priority,      request.hold,         request.config_yaml,
                    request.overrides,     request.resources,    request.after,
                    request.time_limit_ns, request.retry_policy, request.config_source};
  if (!request.environment.empty()) arguments.push_back(request.environment);
  return arguments;
}

Run run_of(const CreateRequest& request, const CheckedConfig& checked, const Caller& caller) {
  Run run;
  run.owner = caller.name;
  run.display_name = request.display_name.empty() ? checked.name : request.display_name;
  run.labels = request.labels;
  run.notes = request.notes;
  run.priority = request.priority;
  run.hold = request.hold;
  run.environment = request.environment;
  run.overrides = request.overrides;
  run.config_sha256 = sha256_hex(checked.resolved_config);
  run.output = checked.output;
  run.device_kind = checked.device_kind;
  run.resources = request.resources;
  run.after = request.after;
  run.time_limit_ns = request.time_limit_ns;
  run.retry_policy = request.retry_policy;
  run.resume_from = "never";
  return run;
}

std::shared_ptr<const RunTexts> texts_of(const CreateRequest& request,
                                         const CheckedConfig& checked) {
  auto texts = std::make_shared<RunTexts>();
  texts->config_yaml = request.config_yaml;
  texts->config_source = request.config_source;
  texts->resolved_config = checked.resolved_config;
  return texts;
}

void require_fits(const EngineCore& core, const Run& run) {
  const auto why = why_never_fits(core.cluster(), run.resources, run.device_kind);
  if (!why) return;
  EngineError error(ErrorCode::kFailedPrecondition, "CANNOT_FIT", *why);
  throw error.violates("run.resources", *why);
}

std::string canonical(const std::string& path) {
  std::error_code error;
  const auto found = std::filesystem::weakly_canonical(path, error);
  return error ? path : found.string();
}

bool is_within(const std::string& path, const std::string& directory) {
  return path == directory || path.starts_with(directory == "/" ? directory : directory + "/");
}

// What no two runs may do at once is write to one directory. `parent`: a run that has ended and
// whose directory this one goes on with. write_mutex is held.
void require_output_free(EngineCore& core, const Run& run, const std::string& parent) {
  const std::string output = core.canonical_output(run.output);
  const std::string state = core.canonical_output(core.options.state_directory);
  if (is_within(output, state) || is_within(state, output)) {
    const std::string text = fmt::format(
        "run.output {} and the coordinator's own state directory {} must not lie in each "
        "other; choose another (--set run.output=...)",
        run.output, core.options.state_directory);
    EngineError error(ErrorCode::kInvalidArgument, "INVALID_FIELD", text);
    throw error.violates("run.config_yaml", text);
  }
  for (const RunPtr& other : core.table.all_committed()) {
    if (is_terminal(other->run.state)) continue;
    if (core.canonical_output(other->run.output) != output) continue;
    throw EngineError(ErrorCode::kFailedPrecondition, "OUTPUT_IN_USE",
                      fmt::format("run.output {} belongs to run {} ({}); choose another "
                                  "(--set run.output=...)",
                                  run.output, other->run.id, to_string(other->run.state)))
        .with("run", other->run.id);
  }
  {
    const std::lock_guard lock(core.unknown_mutex);
    for (const auto& [id, attempt] : core.unknown) {
      if (attempt.found.ended || !attempt.found.spec ||
          core.canonical_output(attempt.found.spec->output) != output) {
        continue;
      }
      throw EngineError(
          ErrorCode::kFailedPrecondition, "OUTPUT_IN_USE",
          fmt::format("run.output {} belongs to an attempt of run {}, which is not in "
                      "the store: {}",
                      run.output, id, attempt.problem));
    }
  }
  if (!parent.empty() || !holds_run(run.output)) return;
  throw EngineError(ErrorCode::kFailedPrecondition, "OUTPUT_IN_USE",
                    fmt::format("run.output {} already holds a run; choose another (--set "
                                "run.output=...), or retry that run",
                                run.output));
}

// What those it waits for must do before it; unknown ones are refused.
std::vector<std::string> resolve_after(const EngineCore& core,
                                       const std::vector<std::string>& names) {
  std::vector<std::string> ids;
  for (const std::string& name : names) {
    try {
      ids.push_back(core.table.find(name)->run.id);
    } catch (const EngineError& error) {
      EngineError refused(ErrorCode::kInvalidArgument, "INVALID_FIELD", error.what());
      throw refused.violates("run.after", error.what());
    }
  }
  return ids;
}

void require_room(const EngineCore& core, const std::string& owner) {
  int waiting = 0;
  int own = 0;
  for (const RunPtr& record : core.table.all_committed()) {
    if (is_terminal(record->run.state) || has_attempt(record->run.state)) continue;
    ++waiting;
    own += record->run.owner == owner ? 1 : 0;
  }
  const bool own_full = own >= core.options.max_queued_per_caller;
  if (waiting < core.options.max_queued && !own_full) return;
  EngineError error(ErrorCode::kResourceExhausted, "QUEUE_FULL",
                    own_full ? fmt::format("{} runs of {} wait already, which is the limit of one "
                                           "caller",
                                           own, owner)
                             : fmt::format("{} runs wait already, which is the limit", waiting));
  throw error.retry_after(60 * kSecond);
}

std::vector<std::string> pending_of(const EngineCore& core, const Run& run) {
  std::vector<std::string> pending;
  for (const std::string& id : run.after) {
    const RunPtr other = core.table.committed(id);
    if (!other) {
      const std::string text = fmt::format("run {} was deleted meanwhile", id);
      EngineError error(ErrorCode::kInvalidArgument, "INVALID_FIELD", text);
      throw error.violates("run.after", text);
    }
    if (other->run.state != RunState::kSucceeded) pending.push_back(id);
  }
  return pending;
}

// write_mutex is held.
RunPtr store_new(EngineCore& core, Run run, const std::shared_ptr<const RunTexts>& texts,
                 const Call& call) {
  run.id = core.ids.next(core.now());
  run.after_pending = pending_of(core, run);
  RunChange change({}, core.moment());
  change.add(EventKind::kSubmitted, call.caller.name, {{"run", run}});
  change.set_texts(texts);
  if (!run.hold && run.after_pending.empty()) change.add(EventKind::kQueued, "coordinator");
  StoreWrite write = core.records_of(call, run.id, "", audit_view(change.run()));
  write.new_texts = true;
  return core.commit(std::move(change), std::move(write));
}

void describe_wait(const EngineCore& core, const Run& run, CreateResult& result) {
  const auto runs = core.table.all_committed();
  const Moment now = core.moment();
  std::vector<QueuedRun> queued = core.queued_runs(runs, now);
  QueuedRun candidate;
  candidate.id = "~";  // behind all that came before
  candidate.priority = run.priority;
  candidate.queue_time_ns = now.unix_ns;
  candidate.resources = run.resources;
  candidate.kind = run.device_kind;
  candidate.time_limit_ns = run.time_limit_ns;
  queued.push_back(candidate);
  const Plan planned = plan(core.cluster(), core.leases(runs, now), queued, now.unix_ns);
  for (const Start& start : planned.starts) {
    if (start.run == candidate.id) result.placements = start.placements;
  }
  for (const Wait& wait : planned.waits) {
    if (wait.run != candidate.id) continue;
    for (const WaitReason& reason : wait.reasons) {
      result.pending_reasons.push_back({reason.reason, reason.message});
    }
  }
}

CreateResult create_checked(EngineCore& core, const CreateRequest& request,
                            const CheckedConfig& checked, Run run, const Call& call,
                            const std::string& parent) {
  const auto texts = texts_of(request, checked);
  require_fits(core, run);
  CreateResult result;
  result.memory_bytes_per_rank = checked.memory_bytes_per_rank;
  result.memory_table = checked.memory_table;
  const std::lock_guard lock(core.write_mutex);
  if (const auto served = core.served_before(call)) {
    result.run = core.table.find(*served);
    result.replayed = true;
    return result;
  }
  require_output_free(core, run, parent);
  require_room(core, run.owner);
  if (request.validate_only) {
    auto record = std::make_shared<RunRecord>();
    record->run = std::move(run);
    record->run.texts = texts;
    describe_wait(core, record->run, result);
    result.run = std::move(record);
    return result;
  }
  failpoint("engine.before_create");
  result.run = store_new(core, std::move(run), texts, call);
  return result;
}

// What a run that follows others is to begin with, they may yet make.
FilesToFind files_of(const EngineOptions& options, const std::vector<std::string>& after) {
  if (!options.check_data) return FilesToFind::kNone;
  return after.empty() ? FilesToFind::kAll : FilesToFind::kData;
}

// The config of an ended run, and what its child changes.
CreateRequest request_of_parent(const Run& parent, const RetryRequest& request) {
  CreateRequest child;
  child.display_name = parent.display_name;
  child.labels = parent.labels;
  child.notes = parent.notes;
  child.priority = parent.priority;
  child.environment = parent.environment;
  child.config_yaml = parent.texts->config_yaml;
  child.config_source = parent.texts->config_source;
  child.overrides = parent.overrides;
  child.overrides.insert(child.overrides.end(), request.overrides.begin(), request.overrides.end());
  child.resources = parent.resources;
  child.time_limit_ns = parent.time_limit_ns;
  child.retry_policy = parent.retry_policy;
  return child;
}

bool overrides_output(const std::vector<std::string>& overrides) {
  return std::any_of(overrides.begin(), overrides.end(), [](const std::string& text) {
    return text.starts_with("run.output=") || text.starts_with("run=");
  });
}

// A child that begins anew needs a directory of its own: the first free of OUTPUT.2, OUTPUT.3, ...
std::string fresh_output(const EngineCore& core, const std::string& output) {
  std::set<std::string> taken;
  for (const RunPtr& other : core.table.all_committed())
    taken.insert(canonical(other->run.output));
  for (int number = 2;; ++number) {
    std::string candidate = fmt::format("{}.{}", output, number);
    if (!taken.contains(canonical(candidate)) && !std::filesystem::exists(candidate)) {
      return candidate;
    }
  }
}

// Where the child goes on: in the directory of its parent, from a checkpoint of it in another one,
// or (from_start) nowhere.
std::string resume_of_child(EngineCore& core, const Run& parent, const Run& child,
                            bool from_start) {
  if (canonical(child.output) == canonical(parent.output)) return "auto";
  if (from_start) return "never";
  const auto newest = core.checkpoints.newest_verified(parent.output);
  if (newest) return newest->path;
  throw EngineError(ErrorCode::kFailedPrecondition, "NO_CHECKPOINT",
                    fmt::format("run {} has no whole checkpoint to go on from; retry it from the "
                                "start",
                                parent.id));
}

RunPtr retry_parent(EngineCore& core, const Run& parent, const RetryRequest& request,
                    const Call& call) {
  if (check_verb(parent, Verb::kRetry) != VerbAnswer::kAllowed) {
    throw EngineError(ErrorCode::kFailedPrecondition, "WRONG_STATE", refusal(parent, Verb::kRetry))
        .with("state", to_string(parent.state));
  }
  CreateRequest child = request_of_parent(parent, request);
  child.priority = std::min(child.priority, call.caller.max_priority);
  if (request.from_start && !overrides_output(request.overrides)) {
    child.overrides.push_back("run.output=" + fresh_output(core, parent.output));
  }
  const CheckedConfig checked =
      check_config(child.config_yaml, child.config_source, child.overrides, child.resources.ranks,
                   files_of(core.options, child.after));
  Run run = run_of(child, checked, call.caller);
  run.parent_run = parent.id;
  run.resume_from = resume_of_child(core, parent, run, request.from_start);
  const std::string goes_on = run.resume_from == "auto" ? parent.id : "";
  return create_checked(core, child, checked, std::move(run), call, goes_on).run;
}

}  // namespace

const std::string& EngineCore::canonical_output(const std::string& output) {
  const auto [known, is_new] = canonical_outputs.try_emplace(output);
  if (is_new) known->second = canonical(output);
  return known->second;
}

CreateResult Engine::create(const CreateRequest& request, const Caller& caller) {
  const Call call = {"CreateRun", caller, request.request_id, digest_of(arguments_of(request))};
  check_fields(request, core_->options, caller);
  if (const auto served = core_->served_before(call)) {
    CreateResult result;
    result.run = core_->table.find(*served);
    result.replayed = true;
    return result;
  }
  try {
    const CheckedConfig checked =
        check_config(request.config_yaml, request.config_source, request.overrides,
                     request.resources.ranks, files_of(core_->options, request.after));
    Run run = run_of(request, checked, caller);
    run.after = resolve_after(*core_, request.after);
    return create_checked(*core_, request, checked, std::move(run), call, "");
  } catch (const EngineError& error) {
    const std::lock_guard lock(core_->write_mutex);
    if (!request.validate_only) core_->record_refusal(call, "", error);
    throw;
  }
}

RunPtr Engine::retry(const RetryRequest& request, const Caller& caller) {
  const RunPtr parent = core_->table.find(request.run);
  const Call call = {"RetryRun", caller, request.request_id,
                     digest_of({parent->run.id, request.overrides, request.from_start})};
  if (const auto served = core_->served_before(call)) return core_->table.find(*served);
  try {
    return retry_parent(*core_, parent->run, request, call);
  } catch (const EngineError& error) {
    const std::lock_guard lock(core_->write_mutex);
    core_->record_refusal(call, parent->run.id, error);
    throw;
  }
}

}  // namespace lockstep::coordinator
