#include "coordinator/model/run_machine.h"

#include <algorithm>
#include <array>
#include <initializer_list>

#include <fmt/format.h>

#include "coordinator/model/run_json.h"
#include "core/error.h"

namespace lockstep::coordinator {
namespace {

using nlohmann::json;

[[noreturn]] void refuse(const RunRecord& record, const Event& event, const std::string& why) {
  throw core::Error(
      core::ErrorKind::kData,
      fmt::format("run {}: event {} '{}' in state {}: {}", event.run, event.run_sequence,
                  to_string(event.kind),
                  record.run.run_sequence == 0 ? "none" : to_string(record.run.state), why));
}

void require(bool holds, const RunRecord& record, const Event& event, const char* why) {
  if (!holds) refuse(record, event, why);
}

void require_state(const RunRecord& record, const Event& event,
                   std::initializer_list<RunState> states) {
  require(std::find(states.begin(), states.end(), record.run.state) != states.end(), record, event,
          "not an edge of the state machine");
}

std::string text(const json& context, const char* key) {
  return context.value(key, std::string());
}

// On the steady clock; events of older versions have none.
BootTime moment_in(const Event& event, const char* key) {
  return event.context.value(key, BootTime{});
}

void enter(Run& run, RunState state, const Event& event) {
  run.state = state;
  run.state_reason = text(event.context, "reason");
  run.state_message = text(event.context, "message");
  run.state_time_ns = event.time_ns;
}

bool attempt_ended(const RunRecord& record) {
  return !record.attempts.empty() && record.attempts.back().state == AttemptState::kEnded;
}

void submitted(RunRecord& record, const Event& event) {
  require(record.run.run_sequence == 0, record, event, "the run was submitted before");
  record.run = event.context.at("run").get<Run>();
  record.run.state = RunState::kWaiting;
  record.run.state_time_ns = event.time_ns;
  record.run.create_time_ns = event.time_ns;
}

void dependency_satisfied(RunRecord& record, const Event& event) {
  require_state(record, event, {RunState::kWaiting});
  std::erase(record.run.after_pending, event.context.at("run").get<std::string>());
}

void updated(RunRecord& record, const Event& event) {
  Run& run = record.run;
  for (const auto& [key, value] : event.context.items()) {
    if (key == "display_name") {
      value.get_to(run.display_name);
    } else if (key == "labels") {
      run.labels = value.get<std::map<std::string, std::string>>();
    } else if (key == "notes") {
      value.get_to(run.notes);
    } else if (key == "priority") {
      value.get_to(run.priority);
    } else if (key == "time_limit_ns") {
      value.get_to(run.time_limit_ns);
    } else {
      require(key == "v", record, event, "a member that cannot be updated");
    }
  }
}

void held(RunRecord& record, const Event& event) {
  require_state(record, event, {RunState::kWaiting, RunState::kQueued, RunState::kBackoff});
  record.run.hold = true;
  record.run.backoff_until_ns = 0;
  record.run.backoff_until = {};
  enter(record.run, RunState::kWaiting, event);
}

void released(RunRecord& record, const Event& event) {
  require_state(record, event, {RunState::kWaiting});
  require(record.run.hold, record, event, "the run is not held");
  record.run.hold = false;
  enter(record.run, RunState::kWaiting, event);
}

void queued(RunRecord& record, const Event& event) {
  Run& run = record.run;
  require_state(record, event, {RunState::kWaiting, RunState::kBackoff, RunState::kStopping});
  if (run.state == RunState::kWaiting) {
    require(!run.hold && run.after_pending.empty(), record, event, "held, or waits for other runs");
  }
  if (run.state == RunState::kStopping) {
    require(attempt_ended(record), record, event, "the attempt has not ended");
    require(run.stop_intent == StopIntent::kPreempt || run.stop_intent == StopIntent::kHostDrain,
            record, event, "nobody asked for its slots");
  }
  if (run.queue_time_ns == 0) {
    run.queue_time_ns = event.time_ns;
    run.queued_at = moment_in(event, "at");
  }
  run.stop_intent = StopIntent::kNone;
  run.stop_order = {};
  run.failure.reset();
  run.backoff_until_ns = 0;
  run.backoff_until = {};
  enter(run, RunState::kQueued, event);
}

void attempt_created(RunRecord& record, const Event& event) {
  require_state(record, event, {RunState::kQueued});
  const json& context = event.context;
  Attempt attempt;
  attempt.number = context.at("number").get<int>();
  attempt.fence = context.at("fence").get<std::int64_t>();
  require(attempt.number == record.run.current_attempt + 1, record, event,
          "attempts are numbered without gaps");
  require(record.attempts.empty() || attempt.fence > record.attempts.back().fence, record, event,
          "fences rise");
  attempt.placements = context.at("placements").get<std::vector<Placement>>();
  attempt.resume = context.at("resume").get<std::string>();
  attempt.agent_token_hash = context.at("agent_token_hash").get<std::string>();
  attempt.create_time_ns = event.time_ns;
  attempt.created_at = moment_in(event, "at");
  Run& run = record.run;
  run.current_attempt = attempt.number;
  if (run.start_time_ns == 0) run.start_time_ns = event.time_ns;
  run.checkpoint_wanted = false;
  run.suspect = false;
  record.attempts.push_back(std::move(attempt));
  enter(run, RunState::kStarting, event);
}

void launched(RunRecord& record, const Event& event) {
  require_state(record, event, {RunState::kStarting});
  require(record.attempts.back().state == AttemptState::kCreated, record, event,
          "the attempt was launched before");
  record.attempts.back().state = AttemptState::kLaunching;
}

void ranks_ready(RunRecord& record, const Event& event) {
  require_state(record, event, {RunState::kStarting});
  Attempt& attempt = record.attempts.back();
  attempt.state = AttemptState::kActive;
  attempt.start_time_ns = event.time_ns;
  attempt.started_at = moment_in(event, "at");
  attempt.resumed_from = text(event.context, "resumed_from");
  record.run.launch_failures = 0;
  Progress& progress = record.run.progress;
  progress.total_steps = event.context.value("total_steps", progress.total_steps);
  progress.step = event.context.value("resumed_step", progress.step);
  enter(record.run, RunState::kRunning, event);
}

void checkpoint_committed(RunRecord& record, const Event& event) {
  require_state(record, event, {RunState::kRunning, RunState::kStopping});
  Run& run = record.run;
  const std::int64_t step = event.context.at("step").get<std::int64_t>();
  const bool fresh = step > run.checkpoint_step;
  run.checkpoint_step = step;
  run.latest_checkpoint = event.context.at("path").get<std::string>();
  if (event.context.value("answers_request", true)) {
    run.checkpoint_wanted = false;
    run.checkpoint_answer_id = run.checkpoint_control_id;
  }
  if (fresh && ++run.fresh_checkpoints >= kRefillCheckpoints) {
    run.budget_used = 0;
    run.hang_count = 0;
    run.fresh_checkpoints = 0;
  }
}

void checkpoint_failed(RunRecord& record, const Event& event) {
  require_state(record, event, {RunState::kRunning, RunState::kStopping});
  Run& run = record.run;
  run.checkpoint_wanted = false;
  run.state_message = text(event.context, "message");
  if (event.context.value("lost", false)) {
    run.latest_checkpoint.clear();
    run.checkpoint_step = 0;
  }
  if (run.state == RunState::kRunning && run.stop_intent <= StopIntent::kPause) {
    run.stop_intent = StopIntent::kNone;
    run.stop_order = {};
  }
}

void stop_requested(RunRecord& record, const Event& event) {
  require_state(record, event, {RunState::kStarting, RunState::kRunning, RunState::kStopping});
  Run& run = record.run;
  const StopIntent intent = parse_stop_intent(event.context.at("intent").get<std::string>());
  const bool force = event.context.at("force").get<bool>();
  require(intent > run.stop_intent || (intent == run.stop_intent && force && !run.stop_order.force),
          record, event, "a stop intent only escalates");
  run.stop_intent = intent;
  run.stop_order.force = force;
  run.stop_order.grace_ns = event.context.at("grace_ns").get<std::int64_t>();
  run.stop_order.actor = event.actor;
  run.stop_order.reason = text(event.context, "reason");
}

void stopping(RunRecord& record, const Event& event) {
  require_state(record, event, {RunState::kStarting, RunState::kRunning});
  const json& failure = event.context.at("failure");
  if (!failure.is_null()) record.run.failure = failure.get<ExitInfo>();
  record.run.checkpoint_wanted = false;
  record.attempts.back().state = AttemptState::kEnding;
  enter(record.run, RunState::kStopping, event);
}

void ended(RunRecord& record, const Event& event) {
  require_state(record, event, {RunState::kStopping});
  require(!attempt_ended(record), record, event, "the attempt ended before");
  Attempt& attempt = record.attempts.back();
  attempt.state = AttemptState::kEnded;
  attempt.exit = event.context.at("exit").get<ExitInfo>();
  attempt.end_time_ns = event.context.at("end_time_ns").get<std::int64_t>();
  attempt.ended_at = moment_in(event, "at");
  attempt.checkpoint_step = record.run.checkpoint_step;
  attempt.stuck = event.context.value("stuck", std::vector<std::string>());
  record.run.result = attempt.exit;
  record.run.suspect = false;
  record.run.progress.step = std::max(record.run.progress.step, attempt.exit->step);
}

void slots_released(RunRecord& record, const Event& event) {
  const int number = event.context.at("number").get<int>();
  require(number >= 1 && static_cast<std::size_t>(number) <= record.attempts.size(), record, event,
          "there is no such attempt");
  Attempt& attempt = record.attempts[static_cast<std::size_t>(number) - 1];
  require(attempt.state == AttemptState::kEnded && attempt.slots_leased, record, event,
          "its slots are not to be released");
  attempt.slots_leased = false;
}

void retry_scheduled(RunRecord& record, const Event& event) {
  require_state(record, event, {RunState::kStopping});
  require(attempt_ended(record), record, event, "the attempt has not ended");
  Run& run = record.run;
  const auto category = parse_failure_category(event.context.at("category").get<std::string>());
  ++run.restart_count;
  ++run.budget_used;
  run.fresh_checkpoints = 0;
  if (category == FailureCategory::kHang) ++run.hang_count;
  if (category == FailureCategory::kLaunch) ++run.launch_failures;
  run.stop_intent = StopIntent::kNone;
  run.stop_order = {};
  run.failure.reset();
  run.backoff_until_ns = event.context.at("due_ns").get<std::int64_t>();
  run.backoff_until = moment_in(event, "due");
  enter(run, RunState::kBackoff, event);
}

void paused(RunRecord& record, const Event& event) {
  require_state(record, event, {RunState::kStopping});
  require(attempt_ended(record), record, event, "the attempt has not ended");
  require(!record.run.latest_checkpoint.empty(), record, event, "there is no verified checkpoint");
  record.run.stop_intent = StopIntent::kNone;
  record.run.stop_order = {};
  record.run.failure.reset();
  enter(record.run, RunState::kPaused, event);
}

void resumed(RunRecord& record, const Event& event) {
  require_state(record, event, {RunState::kPaused});
  record.run.queue_time_ns = event.time_ns;
  record.run.queued_at = moment_in(event, "at");
  enter(record.run, RunState::kQueued, event);
}

void contact(RunRecord& record, const Event& event) {
  require_state(record, event, {RunState::kStarting, RunState::kRunning, RunState::kStopping});
  record.run.suspect = event.kind == EventKind::kSuspect;
}

void terminal(RunRecord& record, const Event& event) {
  Run& run = record.run;
  const RunState state = parse_run_state(event.context.at("state").get<std::string>());
  require(is_terminal(state), record, event, "its state is not terminal");
  require_state(record, event,
                {RunState::kWaiting, RunState::kQueued, RunState::kBackoff, RunState::kPaused,
                 RunState::kStopping});
  if (run.state == RunState::kStopping) {
    require(attempt_ended(record), record, event, "the attempt has not ended");
  } else {
    require(state != RunState::kSucceeded, record, event, "nothing has run");
  }
  if (event.context.contains("category")) {
    if (!run.result) run.result.emplace().message = text(event.context, "message");
    run.result->category = parse_failure_category(event.context.at("category").get<std::string>());
  }
  run.end_time_ns = event.time_ns;
  run.ended_at = moment_in(event, "at");
  run.backoff_until_ns = 0;
  run.backoff_until = {};
  enter(run, state, event);
}

void progress_mark(RunRecord& record, const Event& event) {
  require_state(record, event, {RunState::kRunning, RunState::kStopping});
  event.context.at("progress").get_to(record.run.progress);
}

void checkpoint_requested(RunRecord& record, const Event& event) {
  require_state(record, event, {RunState::kRunning});
  record.run.checkpoint_control_id = event.context.at("control_id").get<std::int64_t>();
  record.run.checkpoint_wanted = true;
}

void control_acked(RunRecord& record, const Event& event) {
  require_state(record, event, {RunState::kRunning, RunState::kStopping});
}

void coordinator_restarted(RunRecord&, const Event&) {}

void cleanup(RunRecord& record, const Event& event) {
  record.run.cleanup_state = text(event.context, "cleanup_state");
}

// The store was lost or is older than what runs: what the files of the attempt tell goes before it.
void adopted(RunRecord& record, const Event& event) {
  RunRecord found = event.context.at("record").get<RunRecord>();
  require(!is_terminal(found.run.state), record, event, "what is adopted has ended");
  require(found.run.current_attempt == static_cast<int>(found.attempts.size()), record, event,
          "attempts are numbered without gaps");
  require(!has_attempt(found.run.state) || !found.attempts.empty(), record, event,
          "what runs has an attempt");
  if (record.run.run_sequence > 0) {
    const std::int64_t known = record.attempts.empty() ? 0 : record.attempts.back().fence;
    require(found.run.id == record.run.id, record, event, "it is of another run");
    require(!found.attempts.empty() && found.attempts.back().fence > known, record, event,
            "fences rise");
  }
  found.run.event_sequence = record.run.event_sequence;
  record = std::move(found);
}

// What each kind does to the record, in the order of EventKind; sequences and times are done by
// apply().
using Handler = void (*)(RunRecord&, const Event&);
constexpr std::array<Handler, static_cast<std::size_t>(EventKind::kTerminal) + 1> kHandlers = {
    submitted,
    dependency_satisfied,
    updated,
    held,
    released,
    queued,
    attempt_created,
    launched,
    ranks_ready,
    progress_mark,
    checkpoint_requested,
    checkpoint_committed,
    checkpoint_failed,
    stop_requested,
    control_acked,
    stopping,
    ended,
    slots_released,
    retry_scheduled,
    paused,
    resumed,
    contact,
    contact,
    coordinator_restarted,
    cleanup,
    adopted,
    terminal,
};

}  // namespace

void apply(RunRecord& record, const Event& event) {
  require(event.run_sequence == record.run.run_sequence + 1, record, event,
          "the sequence of the run has a gap");
  const bool begins = event.kind == EventKind::kSubmitted || event.kind == EventKind::kAdopted;
  require(begins || record.run.run_sequence > 0, record, event, "the run was not submitted");
  const bool late = event.kind == EventKind::kSlotsReleased || event.kind == EventKind::kCleanup;
  require(record.run.run_sequence == 0 || late || !is_terminal(record.run.state), record, event,
          "the run has ended");
  RunRecord after = record;
  try {
    kHandlers[static_cast<std::size_t>(event.kind)](after, event);
  } catch (const json::exception& error) {
    refuse(record, event, error.what());
  }
  require(after.run.id == event.run, record, event, "the event is of another run");
  after.run.run_sequence = event.run_sequence;
  if (event.sequence != 0) after.run.event_sequence = event.sequence;
  after.run.update_time_ns = event.time_ns;
  record = std::move(after);
}

}  // namespace lockstep::coordinator
