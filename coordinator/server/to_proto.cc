#include <algorithm>

#include "coordinator/server/conversions.h"

namespace lockstep::coordinator {
namespace {

// A member that is not set in the struct is not set in the message.
template <typename Message, typename Set>
void set_time(std::int64_t ns, Message* message, Set set) {
  if (ns != 0) *(message->*set)() = timestamp_message(ns);
}

void set_progress(const Progress& progress, v1::Progress* message) {
  message->set_step(progress.step);
  message->set_total_steps(progress.total_steps);
  message->set_loss(progress.loss);
  message->set_tokens_per_second(progress.tokens_per_second);
  message->set_step_seconds(progress.step_seconds);
  set_time(progress.eta_time_ns, message, &v1::Progress::mutable_eta_time);
  set_time(progress.heartbeat_time_ns, message, &v1::Progress::mutable_heartbeat_time);
}

// What the user asked for.
void set_wishes(const Run& run, v1::Run* message) {
  message->set_display_name(run.display_name);
  message->mutable_labels()->insert(run.labels.begin(), run.labels.end());
  message->set_notes(run.notes);
  message->set_priority(run.priority);
  message->set_hold(run.hold);
  message->mutable_environment()->insert(run.environment.begin(), run.environment.end());
  message->mutable_overrides()->Assign(run.overrides.begin(), run.overrides.end());
  message->set_config_sha256(run.config_sha256);
  message->set_output(run.output);
  v1::Resources* resources = message->mutable_resources();
  resources->set_ranks(run.resources.ranks);
  resources->set_ranks_per_host(run.resources.ranks_per_host);
  resources->mutable_hosts()->Assign(run.resources.hosts.begin(), run.resources.hosts.end());
  message->mutable_after()->Assign(run.after.begin(), run.after.end());
  if (run.time_limit_ns != 0) *message->mutable_time_limit() = duration_message(run.time_limit_ns);
  v1::RetryPolicy* retry = message->mutable_retry_policy();
  retry->set_max_restarts(std::max(0, run.retry_policy.max_restarts));
  *retry->mutable_base_delay() = duration_message(run.retry_policy.base_delay_ns);
  *retry->mutable_max_delay() = duration_message(run.retry_policy.max_delay_ns);
  const std::vector<int>& codes = run.retry_policy.on_exit_codes;
  retry->mutable_on_exit_codes()->Assign(codes.begin(), codes.end());
}

void set_state(const Run& run, v1::Run* message) {
  message->set_state(static_cast<v1::Run::State>(run.state));
  message->set_state_reason(run.state_reason);
  message->set_state_message(run.state_message);
  set_time(run.state_time_ns, message, &v1::Run::mutable_state_time);
  message->set_stop_intent(static_cast<v1::Run::StopIntent>(run.stop_intent));
  message->set_suspect(run.suspect);
  message->set_cleanup_state(run.cleanup_state);
  message->set_current_attempt(run.current_attempt);
  message->set_restart_count(run.restart_count);
  set_progress(run.progress, message->mutable_progress());
  message->set_latest_checkpoint(run.latest_checkpoint);
  message->set_checkpoint_request(run.checkpoint_control_id);
  message->set_checkpoint_answer(run.checkpoint_answer_id);
  message->set_checkpoint_wanted(run.checkpoint_wanted);
  message->set_checkpoint_step(run.checkpoint_step);
  if (run.result) *message->mutable_result() = to_proto(*run.result);
  message->set_parent_run(run.parent_run);
}

void set_times(const Run& run, v1::Run* message) {
  set_time(run.create_time_ns, message, &v1::Run::mutable_create_time);
  set_time(run.queue_time_ns, message, &v1::Run::mutable_queue_time);
  set_time(run.start_time_ns, message, &v1::Run::mutable_start_time);
  set_time(run.end_time_ns, message, &v1::Run::mutable_end_time);
  set_time(run.update_time_ns, message, &v1::Run::mutable_update_time);
  set_time(run.backoff_until_ns, message, &v1::Run::mutable_backoff_until_time);
}

template <typename Reasons, typename Add>
void add_reasons(const Reasons& reasons, Add add) {
  for (const PendingReason& reason : reasons)
    add(reason);
}

}  // namespace

google::protobuf::Timestamp timestamp_message(std::int64_t ns) {
  google::protobuf::Timestamp time;
  std::int64_t seconds = ns / kSecond;
  std::int64_t rest = ns % kSecond;
  if (rest < 0) {
    rest += kSecond;
    --seconds;
  }
  time.set_seconds(seconds);
  time.set_nanos(static_cast<std::int32_t>(rest));
  return time;
}

google::protobuf::Duration duration_message(std::int64_t ns) {
  google::protobuf::Duration duration;
  duration.set_seconds(ns / kSecond);
  duration.set_nanos(static_cast<std::int32_t>(ns % kSecond));
  return duration;
}

v1::Run to_proto(const RunRecord& record, Texts texts) {
  const Run& run = record.run;
  v1::Run message;
  if (!run.id.empty()) message.set_name("runs/" + run.id);
  message.set_uid(run.id);
  message.set_owner(run.owner);
  set_wishes(run, &message);
  set_state(run, &message);
  set_times(run, &message);
  message.set_etag(etag_of(run));
  message.set_event_sequence(run.event_sequence);
  if (texts == Texts::kWith && run.texts != nullptr) {
    message.set_config_yaml(run.texts->config_yaml);
    message.set_resolved_config(run.texts->resolved_config);
  }
  return message;
}

v1::Placement to_proto(const Placement& placement) {
  v1::Placement message;
  message.set_host(placement.host);
  message.mutable_slots()->Assign(placement.slots.begin(), placement.slots.end());
  return message;
}

v1::ExitInfo to_proto(const ExitInfo& info) {
  v1::ExitInfo message;
  message.set_category(static_cast<v1::ExitInfo::Category>(info.category));
  message.set_code(info.code);
  message.set_signal(info.signal);
  message.set_failing_rank(info.failing_rank);
  message.set_host(info.host);
  message.set_message(info.message);
  message.set_launcher_code(info.launcher_code);
  message.set_retryable(info.retryable);
  message.set_step(info.step);
  for (const RankExit& rank : info.ranks) {
    v1::RankExit* added = message.add_ranks();
    added->set_rank(rank.rank);
    added->set_host(rank.host);
    added->set_pid(rank.pid);
    added->set_code(rank.code);
    added->set_signal(rank.signal);
    added->set_reason(rank.reason);
    added->set_message(rank.message);
    set_time(rank.end_time_ns, added, &v1::RankExit::mutable_end_time);
  }
  return message;
}

v1::Attempt to_proto(const Attempt& attempt, const std::string& run) {
  v1::Attempt message;
  message.set_name("runs/" + run + "/attempts/" + std::to_string(attempt.number));
  message.set_number(attempt.number);
  message.set_fence(attempt.fence);
  message.set_state(static_cast<v1::Attempt::State>(attempt.state));
  for (const Placement& placement : attempt.placements)
    *message.add_placements() = to_proto(placement);
  message.set_resumed_from(attempt.resumed_from);
  set_time(attempt.create_time_ns, &message, &v1::Attempt::mutable_create_time);
  set_time(attempt.start_time_ns, &message, &v1::Attempt::mutable_start_time);
  set_time(attempt.end_time_ns, &message, &v1::Attempt::mutable_end_time);
  if (attempt.exit) *message.mutable_exit() = to_proto(*attempt.exit);
  return message;
}

v1::Checkpoint to_proto(const CheckpointInfo& checkpoint, const std::string& run) {
  v1::Checkpoint message;
  message.set_name("runs/" + run + "/checkpoints/" + std::to_string(checkpoint.step));
  message.set_step(checkpoint.step);
  message.set_path(checkpoint.path);
  message.set_verified(checkpoint.verified);
  message.set_healthy(checkpoint.healthy);
  message.set_problem(checkpoint.problem);
  message.set_bytes(checkpoint.bytes);
  set_time(checkpoint.create_time_ns, &message, &v1::Checkpoint::mutable_create_time);
  return message;
}

v1::RunEvent to_proto(const Event& event) {
  v1::RunEvent message;
  message.set_sequence(event.sequence);
  message.set_run_sequence(event.run_sequence);
  message.set_run(event.run);
  message.set_kind(to_string(event.kind));
  set_time(event.time_ns, &message, &v1::RunEvent::mutable_time);
  message.set_actor(event.actor);
  message.set_context_json(
      event.context.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  return message;
}

v1::Host to_proto(const HostInfo& host) {
  v1::Host message;
  message.set_name(host.spec.name);
  message.set_address(host.spec.address);
  message.set_kind(host.spec.kind);
  message.set_drained(host.drained);
  message.set_drain_reason(host.drain_reason);
  for (const SlotInfo& slot : host.slots) {
    v1::Slot* added = message.add_slots();
    added->set_index(slot.index);
    added->set_run(slot.run);
    added->set_attempt(slot.attempt);
    added->set_rank(slot.rank);
  }
  return message;
}

v1::Token to_proto(const TokenInfo& token) {
  v1::Token message;
  message.set_name(token.name);
  message.mutable_scopes()->Assign(token.scopes.begin(), token.scopes.end());
  set_time(token.create_time_ns, &message, &v1::Token::mutable_create_time);
  set_time(token.expire_time_ns, &message, &v1::Token::mutable_expire_time);
  message.set_revoked(token.revoked);
  return message;
}

v1::AuditEvent to_proto(const AuditEvent& event) {
  v1::AuditEvent message;
  message.set_sequence(event.sequence);
  set_time(event.time_ns, &message, &v1::AuditEvent::mutable_time);
  message.set_actor(event.actor);
  message.set_peer(event.peer);
  message.set_method(event.method);
  message.set_resource(event.resource);
  message.set_before_json(event.before_json);
  message.set_after_json(event.after_json);
  message.set_result(event.result);
  message.set_hash(event.hash);
  return message;
}

v1::ExplainRunResponse to_proto(const Explanation& explanation) {
  v1::ExplainRunResponse message;
  *message.mutable_run() = to_proto(*explanation.run, Texts::kWithout);
  add_reasons(explanation.reasons, [&message](const PendingReason& reason) {
    v1::PendingReason* added = message.add_reasons();
    added->set_reason(reason.reason);
    added->set_message(reason.message);
  });
  const std::vector<std::string>& ahead = explanation.runs_ahead;
  message.mutable_runs_ahead()->Assign(ahead.begin(), ahead.end());
  set_time(explanation.start_estimate_ns, &message,
           &v1::ExplainRunResponse::mutable_start_estimate_time);
  if (explanation.failure) {
    v1::FailureReport* failure = message.mutable_failure();
    *failure->mutable_exit() = to_proto(explanation.failure->exit);
    failure->set_advice(explanation.failure->advice);
    const std::vector<std::string>& stuck = explanation.failure->stuck;
    failure->mutable_stuck()->Assign(stuck.begin(), stuck.end());
    failure->set_retry_planned(explanation.failure->retry_planned);
  }
  message.set_summary(explanation.summary);
  return message;
}

v1::CreateRunResponse to_proto(const CreateResult& result) {
  v1::CreateRunResponse message;
  *message.mutable_run() = to_proto(*result.run, Texts::kWith);
  message.set_replayed(result.replayed);
  if (!result.memory_table.empty() || result.memory_bytes_per_rank != 0) {
    message.mutable_memory()->set_bytes_per_rank(result.memory_bytes_per_rank);
    message.mutable_memory()->set_table(result.memory_table);
  }
  for (const Placement& placement : result.placements)
    *message.add_placements() = to_proto(placement);
  add_reasons(result.pending_reasons, [&message](const PendingReason& reason) {
    message.add_pending_reasons(reason.reason + ": " + reason.message);
  });
  return message;
}

}  // namespace lockstep::coordinator
