#include "coordinator/engine/attempt_watcher.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "coordinator/engine/attempt_files.h"
#include "coordinator/model/failpoint.h"
#include "coordinator/model/run_json.h"

// Start, stop and end of an attempt.
namespace lockstep::coordinator {
namespace {

// Unless somebody else was faster, which a decision must always ask.
bool is_current(const RunChange& change, const AttemptRef& ref) {
  return has_attempt(change.run().state) && change.record().current_ref() == ref &&
         change.record().current()->state != AttemptState::kEnded;
}

}  // namespace

ExitInfo failure_of(FailureCategory category, const std::string& message) {
  ExitInfo failure;
  failure.category = category;
  failure.message = message;
  return failure;
}

void add_stopping(RunChange& change, const ExitInfo& failure) {
  change.add(EventKind::kStopping, kCoordinatorActor,
             {{"reason", to_string(failure.category)},
              {"message", failure.message},
              {"failure", failure}});
}

AttemptWatcher::AttemptWatcher(EngineCore& core, AttemptWatch& watch, RunPtr record)
    : core_(core),
      watch_(watch),
      record_(std::move(record)),
      live_(core.live.get(watch.ref, core.steady())),
      now_(core.moment()) {}

void AttemptWatcher::run() {
  const AttemptStatus status = core_.attempts.poll(watch_.ref);
  if (status.phase == AttemptPhase::kAbsent) return absent();
  if (status.phase == AttemptPhase::kEnded) return ended(status);
  note_launch(status);
  note_acknowledgement();
  watch_contact();
  watch_checkpoints();
  watch_deadlines();
  watch_activity(status);
  stop_if_asked();
}

void AttemptWatcher::change(const std::function<void(RunChange&)>& decide) {
  record_ = core_.change_run(watch_.ref.run, [&](RunChange& draft) {
    if (is_current(draft, watch_.ref)) decide(draft);
  });
}

// The coordinator died between committing the attempt and starting it, or between the start of
// the supervisor and its first file: then nothing of it has run, and this very attempt is still to
// be started, unless it is to stop. It costs no restart.
void AttemptWatcher::absent() {
  const AttemptState state = record_->current()->state;
  const bool begun = state != AttemptState::kCreated && state != AttemptState::kLaunching;
  if (!begun && now_run().state == RunState::kStarting && !watch_.launched_here) return launch();
  AttemptEnd end;
  end.exit = failure_of(FailureCategory::kCoordinator,
                        "the processes of the attempt are gone without a trace");
  if (!begun) end.exit.message = "the attempt was never started";
  end.end_time_ns = now_ns();
  conclude(end);
}

void AttemptWatcher::launch() {
  watch_.launched_here = true;
  try {
    failpoint("engine.before_launch");
    if (!write_record_file(core_.options, *record_, true)) {
      core_.log.warning("engine", "run {}: its record could not be kept with its attempt",
                        watch_.ref.run);
    }
    core_.attempts.launch(launch_spec(core_.options, *record_));
    failpoint("engine.after_launch");
  } catch (const std::exception& error) {
    AttemptEnd end;
    end.exit = failure_of(FailureCategory::kLaunch, error.what());
    end.end_time_ns = now_ns();
    return conclude(end);
  }
  change([](RunChange& draft) {
    if (draft.record().current()->state == AttemptState::kCreated &&
        draft.run().state == RunState::kStarting) {
      draft.add(EventKind::kLaunched, kCoordinatorActor);
    }
  });
}

void AttemptWatcher::note_launch(const AttemptStatus& status) {
  if (now_run().state != RunState::kStarting) return;
  if (record_->current()->state == AttemptState::kCreated) {
    change([](RunChange& draft) {
      if (draft.run().state == RunState::kStarting &&
          draft.record().current()->state == AttemptState::kCreated) {
        draft.add(EventKind::kLaunched, kCoordinatorActor);
      }
    });
  }
  // A rank 0 that speaks has registered, if not with this store.
  if (live_.has_beaten) {
    change([&](RunChange& draft) {
      if (draft.run().state != RunState::kStarting) return;
      draft.add(EventKind::kRanksReady, "agent",
                {{"resumed_from", ""}, {"total_steps", live_.total_steps}});
    });
  }
  // Without agents the processes have to do.
  if (core_.options.agent_address.empty() && status.phase == AttemptPhase::kRunning) {
    change([](RunChange& draft) {
      if (draft.run().state == RunState::kStarting) {
        draft.add(EventKind::kRanksReady, kCoordinatorActor, {{"resumed_from", ""}});
      }
    });
  }
}

void AttemptWatcher::note_acknowledgement() {
  const std::int64_t acked = live_.acked_control_id;
  if (acked <= watch_.recorded_ack || acked > now_run().checkpoint_control_id + 1) return;
  if (now_run().state != RunState::kRunning && now_run().state != RunState::kStopping) return;
  change([&](RunChange& draft) {
    draft.add(EventKind::kControlAcked, "agent", {{"control_id", acked}});
  });
  watch_.recorded_ack = acked;
}

StopRequest AttemptWatcher::wanted_stop() const {
  const Run& run = now_run();
  StopRequest request;
  request.force = run.stop_order.force || run.failure.has_value();
  request.grace_ns = run.stop_order.grace_ns;
  if (run.stop_intent == StopIntent::kNone || run.stop_intent <= StopIntent::kPause) {
    request.grace_ns = core_.options.checkpoint_deadline_ns;
  }
  if (run.failure) {
    request.cause = run.failure->category;
    request.message = run.failure->message;
  } else if (run.stop_intent == StopIntent::kTimeLimit) {
    request.cause = FailureCategory::kTimeLimit;
    request.message = run.stop_order.reason;
  }
  return request;
}

void AttemptWatcher::stop_if_asked() {
  if (now_run().state != RunState::kStopping) return;
  const StopRequest request = wanted_stop();
  const bool further = !watch_.stop_sent || (request.force && !watch_.stop_sent->force) ||
                       request.grace_ns < watch_.stop_sent->grace_ns;
  if (!further) return;
  failpoint("engine.before_stop");
  const StopAnswer answer = core_.attempts.stop(watch_.ref, request);
  failpoint("engine.after_stop");
  if (answer == StopAnswer::kAccepted || answer == StopAnswer::kEnded) watch_.stop_sent = request;
}

void AttemptWatcher::ended(const AttemptStatus& status) {
  if (!watch_.final_verification) {
    Verification verification;
    verification.result =
        std::async(core_.options.verify_in_tick ? std::launch::deferred : std::launch::async,
                   [&checkpoints = core_.checkpoints, output = now_run().output] {
                     return checkpoints.newest_verified(output);
                   })
            .share();
    watch_.final_verification = std::move(verification);
  }
  if (!watch_.final_verification->ready()) return;
  AttemptEnd end;
  end.exit = status.exit;
  // Ranks that were killed left no record of their step.
  if (end.exit.step == 0) end.exit.step = live_.progress.step;
  if (end.exit.message.empty() && !status.stuck.empty()) {
    end.exit.message = fmt::format("{}", fmt::join(status.stuck, "; "));
  }
  end.end_time_ns = status.end_time_ns > 0 ? status.end_time_ns : now_ns();
  end.stuck = status.stuck;
  end.cleanup = status.cleanup;
  conclude(end);
}

void AttemptWatcher::conclude(const AttemptEnd& end) {
  std::optional<VerifiedCheckpoint> checkpoint;
  const std::optional<CheckpointInfo> newest =
      watch_.final_verification ? watch_.final_verification->result.get()
                                : core_.checkpoints.newest_verified(now_run().output);
  if (newest) checkpoint = VerifiedCheckpoint{newest->step, newest->path};
  failpoint("engine.before_end");
  const std::lock_guard lock(core_.write_mutex);
  RunChange draft(*core_.table.committed(watch_.ref.run), now_);
  if (!is_current(draft, watch_.ref)) return;
  const bool fresher = live_.progress.heartbeat_time_ns > draft.run().progress.heartbeat_time_ns;
  if (fresher && draft.run().state != RunState::kStarting) {
    draft.add(EventKind::kProgressMark, kCoordinatorActor, {{"progress", live_.progress}});
  }
  end_attempt(draft, end, checkpoint, core_.jitter());
  commit_end(std::move(draft), end);
}

// Hosts where processes could not be ended take nothing new until somebody has looked.
void AttemptWatcher::commit_end(RunChange draft, const AttemptEnd& end) {
  StoreWrite write;
  if (!end.cleanup.empty()) {
    for (const Placement& placement : record_->current()->placements) {
      write.hosts.push_back({placement.host, true, "unkillable: " + end.cleanup});
    }
  }
  const std::vector<HostRow> hosts = write.hosts;
  core_.commit(std::move(draft), std::move(write));
  {
    const std::lock_guard lock(core_.host_mutex);
    for (const HostRow& row : hosts)
      core_.host_rows[row.name] = row;
  }
  remove_token_file(core_.options, watch_.ref);
  core_.live.forget(watch_.ref.run);
}

}  // namespace lockstep::coordinator
