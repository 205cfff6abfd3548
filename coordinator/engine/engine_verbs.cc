#include <algorithm>

#include <fmt/format.h>

#include "coordinator/engine/engine_core.h"
#include "coordinator/model/verbs.h"

// What people ask of a run that is there.
namespace lockstep::coordinator {
namespace {

using nlohmann::json;

void require_allowed(VerbAnswer answer, const Run& run, Verb verb) {
  if (answer != VerbAnswer::kRefused) return;
  EngineError error(ErrorCode::kFailedPrecondition, "WRONG_STATE", refusal(run, verb));
  std::string allowed;
  for (const Verb other : allowed_verbs(run)) {
    allowed += (allowed.empty() ? "" : ",") + std::string(to_string(other));
  }
  throw error.with("state", to_string(run.state)).with("allowed", allowed);
}

void decide_cancel(RunChange& change, const CancelRequest& request, const std::string& actor) {
  const VerbAnswer answer = check_cancel(change.run(), request.force);
  require_allowed(answer, change.run(), Verb::kCancel);
  if (answer == VerbAnswer::kHolds) return;
  if (has_attempt(change.run().state)) {
    StopOrder order;
    order.force = request.force;
    order.grace_ns = request.grace_ns;
    order.reason = request.reason;
    return add_stop_request(change, StopIntent::kCancel, actor, order);
  }
  change.add(EventKind::kTerminal, actor,
             {{"state", to_string(RunState::kCancelled)},
              {"reason", "CANCEL"},
              {"message", request.reason}});
}

void decide_pause(RunChange& change, const std::string& reason, const std::string& actor) {
  const VerbAnswer answer = check_verb(change.run(), Verb::kPause);
  require_allowed(answer, change.run(), Verb::kPause);
  if (answer == VerbAnswer::kHolds) return;
  if (!has_attempt(change.run().state)) {
    change.add(EventKind::kHeld, actor, {{"reason", "HOLD"}, {"message", reason}});
    return;
  }
  StopOrder order;
  order.reason = reason;
  add_stop_request(change, StopIntent::kPause, actor, order);
}

void decide_resume(RunChange& change, const std::string& actor) {
  const VerbAnswer answer = check_verb(change.run(), Verb::kResume);
  require_allowed(answer, change.run(), Verb::kResume);
  if (answer == VerbAnswer::kHolds) return;
  if (change.run().state == RunState::kPaused) {
    change.add(EventKind::kResumed, actor, {{"reason", "RESUMED"}});
    return;
  }
  change.add(EventKind::kReleased, actor, {{"reason", "RELEASED"}});
  if (change.run().after_pending.empty()) change.add(EventKind::kQueued, actor);
}

void decide_update(RunChange& change, const UpdateRequest& request, const Caller& caller) {
  const std::string& actor = caller.name;
  const Run run = change.run();
  require_allowed(check_verb(run, Verb::kUpdate), run, Verb::kUpdate);
  if (!request.etag.empty() && request.etag != etag_of(run)) {
    throw EngineError(ErrorCode::kAborted, "ETAG_MISMATCH",
                      fmt::format("run {} was changed since it was read: its etag is {}, not {}; "
                                  "read it again",
                                  run.id, etag_of(run), request.etag));
  }
  if (request.priority.value_or(run.priority) > std::max(run.priority, caller.max_priority)) {
    const std::string text =
        fmt::format("must be at most {}, which is what this token may give", caller.max_priority);
    EngineError error(ErrorCode::kInvalidArgument, "INVALID_FIELD", "run.priority " + text);
    throw error.violates("run.priority", text);
  }
  json context = json::object();
  const auto set = [&](const char* key, const auto& wanted, const auto& now) {
    if (wanted && *wanted != now) context[key] = *wanted;
  };
  set("display_name", request.display_name, run.display_name);
  set("labels", request.labels, run.labels);
  set("notes", request.notes, run.notes);
  set("priority", request.priority, run.priority);
  set("time_limit_ns", request.time_limit_ns, run.time_limit_ns);
  if (!context.empty()) change.add(EventKind::kUpdated, actor, context);
  if (!request.hold || *request.hold == run.hold) return;
  if (*request.hold) {
    if (has_attempt(run.state) || run.state == RunState::kPaused) {
      throw EngineError(ErrorCode::kFailedPrecondition, "WRONG_STATE",
                        fmt::format("run {} is {}: only a run that waits can be held; pause it",
                                    run.id, to_string(run.state)))
          .with("state", to_string(run.state));
    }
    return decide_pause(change, "held", actor);
  }
  decide_resume(change, actor);
}

}  // namespace

void add_checkpoint_request(RunChange& change, const std::string& actor) {
  change.add(EventKind::kCheckpointRequested, actor,
             {{"control_id", change.run().checkpoint_control_id + 1}});
}

void add_stop_request(RunChange& change, StopIntent intent, const std::string& actor,
                      const StopOrder& order) {
  change.add(EventKind::kStopRequested, actor,
             {{"intent", to_string(intent)},
              {"reason", order.reason},
              {"force", order.force},
              {"grace_ns", order.grace_ns}});
  if (change.run().state == RunState::kStopping) return;
  if (intent > StopIntent::kPause) {
    change.add(EventKind::kStopping, actor,
               {{"reason", to_string(intent)}, {"message", order.reason}, {"failure", nullptr}});
  } else if (change.run().state == RunState::kRunning && !change.run().checkpoint_wanted) {
    add_checkpoint_request(change, actor);
  }
}

RunPtr Engine::cancel(const CancelRequest& request, const Caller& caller) {
  const Call call = {
      "CancelRun", caller, request.request_id,
      digest_of({bare_id(request.run), request.reason, request.force, request.grace_ns})};
  return core_->verb(call, request.run,
                     [&](RunChange& change) { decide_cancel(change, request, caller.name); });
}

RunPtr Engine::pause(const PauseRequest& request, const Caller& caller) {
  const Call call = {"PauseRun", caller, request.request_id,
                     digest_of({bare_id(request.run), request.reason})};
  return core_->verb(call, request.run,
                     [&](RunChange& change) { decide_pause(change, request.reason, caller.name); });
}

RunPtr Engine::resume(const std::string& run, const std::string& request_id, const Caller& caller) {
  const Call call = {"ResumeRun", caller, request_id, digest_of({bare_id(run)})};
  return core_->verb(call, run, [&](RunChange& change) { decide_resume(change, caller.name); });
}

RunPtr Engine::checkpoint(const std::string& run, const std::string& request_id,
                          const Caller& caller) {
  const Call call = {"CheckpointRun", caller, request_id, digest_of({bare_id(run)})};
  return core_->verb(call, run, [&](RunChange& change) {
    const VerbAnswer answer = check_verb(change.run(), Verb::kCheckpoint);
    require_allowed(answer, change.run(), Verb::kCheckpoint);
    if (answer == VerbAnswer::kAllowed) add_checkpoint_request(change, caller.name);
  });
}

RunPtr Engine::update(const UpdateRequest& request, const Caller& caller) {
  json arguments = {bare_id(request.run), request.etag};
  const auto add = [&](const auto& value) { arguments.push_back(value ? json(*value) : json()); };
  add(request.display_name);
  add(request.labels);
  add(request.notes);
  add(request.priority);
  add(request.hold);
  add(request.time_limit_ns);
  const Call call = {"UpdateRun", caller, request.request_id, digest_of(arguments)};
  return core_->verb(call, request.run,
                     [&](RunChange& change) { decide_update(change, request, caller); });
}

}  // namespace lockstep::coordinator
