#include <algorithm>
#include <chrono>
#include <filesystem>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/error.h"
#include "launcher/coordinator/engine/attempt_files.h"
#include "launcher/coordinator/engine/engine_core.h"
#include "launcher/coordinator/model/failpoint.h"
#include "launcher/coordinator/model/retry_rules.h"
#include "launcher/coordinator/model/run_json.h"

// What becomes of attempts: launched, ready, silent, stuck, to be stopped, ended. Everything is
// found out from the record and from the processes each time, so a tick that could not commit, or a
// coordinator that died between two, goes on where it stopped.
namespace lockstep::launcher::coordinator {
namespace {

constexpr const char* kActor = "coordinator";

ExitInfo failure_of(FailureCategory category, const std::string& message) {
  ExitInfo failure;
  failure.category = category;
  failure.message = message;
  return failure;
}

void add_stopping(RunChange& change, const ExitInfo& failure) {
  change.add(EventKind::kStopping, kActor,
             {{"reason", to_string(failure.category)},
              {"message", failure.message},
              {"failure", failure}});
}

// Unless somebody else was faster, which a decision must always ask.
bool is_current(const RunChange& change, const AttemptRef& ref) {
  return has_attempt(change.run().state) && change.record().current_ref() == ref &&
         change.record().current()->state != AttemptState::kEnded;
}

class AttemptWatcher {
 public:
  AttemptWatcher(EngineCore& core, AttemptWatch& watch, RunPtr record)
      : core_(core),
        watch_(watch),
        record_(std::move(record)),
        live_(core.live.get(watch.ref, core.now())),
        now_(core.now()) {}

  void run() {
    const AttemptStatus status = core_.attempts.poll(watch_.ref);
    if (status.phase == AttemptPhase::kAbsent) return absent();
    if (status.phase == AttemptPhase::kEnded) return ended(status);
    note_launch(status);
    note_acknowledgement();
    watch_contact();
    watch_checkpoints();
    watch_deadlines();
    watch_activity();
    stop_if_asked();
  }

 private:
  const Run& now_run() const { return record_->run; }

  void change(const std::function<void(RunChange&)>& decide) {
    record_ = core_.change_run(watch_.ref.run, [&](RunChange& draft) {
      if (is_current(draft, watch_.ref)) decide(draft);
    });
  }

  // The coordinator died between committing the attempt and starting it, or between the start of
  // the supervisor and its first file: then it is still to be started, unless it is to stop.
  void absent() {
    const AttemptState state = record_->current()->state;
    if (state == AttemptState::kCreated && now_run().state == RunState::kStarting &&
        !watch_.launched_here) {
      return launch();
    }
    AttemptEnd end;
    end.exit = failure_of(FailureCategory::kCoordinator,
                          "the processes of the attempt are gone without a trace");
    if (state == AttemptState::kCreated) end.exit.message = "the attempt was never started";
    end.end_time_ns = now_;
    conclude(end);
  }

 public:
  void launch() {
    watch_.launched_here = true;
    try {
      failpoint("engine.before_launch");
      core_.attempts.launch(launch_spec(core_.options, *record_));
      failpoint("engine.after_launch");
    } catch (const std::exception& error) {
      AttemptEnd end;
      end.exit = failure_of(FailureCategory::kLaunch, error.what());
      end.end_time_ns = now_;
      return conclude(end);
    }
    change([](RunChange& draft) {
      if (draft.record().current()->state == AttemptState::kCreated &&
          draft.run().state == RunState::kStarting) {
        draft.add(EventKind::kLaunched, kActor);
      }
    });
  }

 private:
  void note_launch(const AttemptStatus& status) {
    if (now_run().state != RunState::kStarting) return;
    if (record_->current()->state == AttemptState::kCreated) {
      change([](RunChange& draft) {
        if (draft.run().state == RunState::kStarting &&
            draft.record().current()->state == AttemptState::kCreated) {
          draft.add(EventKind::kLaunched, kActor);
        }
      });
    }
    // Without agents the processes have to do.
    if (core_.options.agent_address.empty() && status.phase == AttemptPhase::kRunning) {
      change([](RunChange& draft) {
        if (draft.run().state == RunState::kStarting) {
          draft.add(EventKind::kRanksReady, kActor, {{"resumed_from", ""}});
        }
      });
    }
  }

  void note_acknowledgement() {
    const std::int64_t acked = live_.acked_control_id;
    if (acked <= watch_.recorded_ack || acked > now_run().checkpoint_control_id + 1) return;
    if (now_run().state != RunState::kRunning && now_run().state != RunState::kStopping) return;
    change([&](RunChange& draft) {
      draft.add(EventKind::kControlAcked, "agent", {{"control_id", acked}});
    });
    watch_.recorded_ack = acked;
  }

  bool uses_agent() const { return !core_.options.agent_address.empty(); }
  bool is_silent() const { return now_ - live_.last_contact_ns > core_.options.suspect_after_ns; }

  // Silence is never a failure: the ranks may well be training.
  void watch_contact() {
    if (!uses_agent() || now_run().state != RunState::kRunning) return;
    if (is_silent() == now_run().suspect) return;
    change([&](RunChange& draft) {
      if (draft.run().state != RunState::kRunning || draft.run().suspect == is_silent()) return;
      draft.add(
          is_silent() ? EventKind::kSuspect : EventKind::kRecovered, kActor,
          {{"message", fmt::format("last heard of {:.0f} s ago",
                                   static_cast<double>(now_ - live_.last_contact_ns) / kSecond)}});
    });
  }

  void watch_checkpoints() {
    if (now_run().state != RunState::kRunning) return;
    if (now_run().checkpoint_wanted && live_.checkpoint_asked_ns == 0) {
      core_.live.checkpoint_asked(watch_.ref, now_);
      live_.checkpoint_asked_ns = now_;
    }
    if (!now_run().checkpoint_wanted && live_.checkpoint_asked_ns != 0) {
      core_.live.checkpoint_asked(watch_.ref, 0);
      live_.checkpoint_asked_ns = 0;
    }
    if (watch_.verification && watch_.verification->ready()) take_verification();
    const bool untold = live_.checkpoint_step > 0 && live_.checkpoint_step != watch_.verified_step;
    const bool wanted = now_run().checkpoint_wanted && answers_request(live_.checkpoint_step);
    const bool known = live_.checkpoint_step == now_run().checkpoint_step && !wanted;
    if (!watch_.verification && untold && !known) verify(live_.checkpoint_step);
    const bool late = live_.checkpoint_asked_ns != 0 && !watch_.verification &&
                      now_ - live_.checkpoint_asked_ns > core_.options.checkpoint_deadline_ns;
    if (late) fail_checkpoint("the checkpoint that was asked for did not come in time");
  }

  // The agent had the request when it told of this checkpoint, and the checkpoint is not one from
  // before the request.
  bool answers_request(std::int64_t step) const {
    return live_.acked_control_id >= now_run().checkpoint_control_id && step > 0 &&
           step >= live_.step_before_ack;
  }

  void verify(std::int64_t step) {
    Verification verification;
    verification.step = step;
    verification.result =
        std::async(core_.options.verify_in_tick ? std::launch::deferred : std::launch::async,
                   [&checkpoints = core_.checkpoints, step, output = now_run().output] {
                     return checkpoints.verify(output, step);
                   })
            .share();
    watch_.verification = std::move(verification);
    if (watch_.verification->ready()) take_verification();
  }

  void take_verification() {
    const std::optional<CheckpointInfo> found = watch_.verification->result.get();
    const std::int64_t step = watch_.verification->step;
    watch_.verification.reset();
    const bool answers = now_run().checkpoint_wanted && answers_request(step);
    if (found && found->verified) {
      commit_checkpoint(*found, answers);
    } else if (answers) {
      fail_checkpoint(fmt::format("the checkpoint of step {} is not whole: {}", step,
                                  found ? found->problem : "it is not there"));
    }
    watch_.verified_step = step;
  }

  void commit_checkpoint(const CheckpointInfo& found, bool answers) {
    const Progress progress = live_.progress;
    change([&](RunChange& draft) {
      if (draft.run().state != RunState::kRunning) return;
      draft.add(EventKind::kProgressMark, "agent", {{"progress", progress}});
      draft.add(EventKind::kCheckpointCommitted, "agent",
                {{"step", found.step}, {"path", found.path}, {"answers_request", answers}});
      const StopIntent intent = draft.run().stop_intent;
      if (answers && intent != StopIntent::kNone && intent <= StopIntent::kPause) {
        draft.add(EventKind::kStopping, kActor,
                  {{"reason", to_string(intent)},
                   {"message", fmt::format("the checkpoint of step {} is whole", found.step)},
                   {"failure", nullptr}});
      }
    });
  }

  void fail_checkpoint(const std::string& message) {
    change([&](RunChange& draft) {
      if (draft.run().state != RunState::kRunning || !draft.run().checkpoint_wanted) return;
      draft.add(EventKind::kCheckpointFailed, kActor, {{"message", message}});
    });
    core_.live.checkpoint_asked(watch_.ref, 0);
  }

  void watch_deadlines() {
    const Run& run = now_run();
    const Attempt& attempt = *record_->current();
    if (run.state == RunState::kStarting &&
        now_ - attempt.create_time_ns > core_.options.start_deadline_ns) {
      const std::string message =
          fmt::format("the ranks had not all come up after {:.0f} s",
                      static_cast<double>(core_.options.start_deadline_ns) / kSecond);
      change([&](RunChange& draft) {
        if (draft.run().state != RunState::kStarting) return;
        add_stopping(draft, failure_of(FailureCategory::kLaunch, message));
      });
      return;
    }
    const bool timed = run.state == RunState::kRunning && run.time_limit_ns > 0;
    if (!timed || now_ - attempt.start_time_ns <= run.time_limit_ns) return;
    change([&](RunChange& draft) {
      if (draft.run().state != RunState::kRunning) return;
      StopOrder order;
      order.reason = fmt::format("the time limit of {:.0f} s is over",
                                 static_cast<double>(draft.run().time_limit_ns) / kSecond);
      add_stop_request(draft, StopIntent::kTimeLimit, kActor, order);
    });
  }

  // Before the first step there is nothing to compare with, and much may have to be set up.
  std::int64_t hang_limit_ns() const {
    const std::optional<double> median = live_.median_step_seconds();
    if (!median) return std::max(core_.options.hang_floor_ns, core_.options.start_deadline_ns);
    const double steps = static_cast<double>(core_.options.hang_steps) * *median * kSecond;
    return std::max(core_.options.hang_floor_ns, static_cast<std::int64_t>(steps));
  }

  // Only of an agent that is heard of: one that is not may be cut off from here and train.
  void watch_activity() {
    if (!uses_agent() || now_run().state != RunState::kRunning || is_silent()) return;
    const std::int64_t still = now_ - live_.activity_time_ns;
    if (still <= hang_limit_ns()) return;
    const std::string message =
        fmt::format("nothing has moved for {:.0f} s at step {} ({}), collective {}",
                    static_cast<double>(still) / kSecond, live_.progress.step,
                    live_.phase.empty() ? "unknown phase" : live_.phase, live_.collective_sequence);
    change([&](RunChange& draft) {
      if (draft.run().state != RunState::kRunning) return;
      add_stopping(draft, failure_of(FailureCategory::kHang, message));
    });
  }

  StopRequest wanted_stop() const {
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

  void stop_if_asked() {
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

  void ended(const AttemptStatus& status) {
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
    if (end.exit.message.empty() && !status.stuck.empty()) {
      end.exit.message = fmt::format("{}", fmt::join(status.stuck, "; "));
    }
    end.end_time_ns = status.end_time_ns > 0 ? status.end_time_ns : now_;
    end.stuck = status.stuck;
    end.cleanup = status.cleanup;
    conclude(end);
  }

  void conclude(const AttemptEnd& end) {
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
      draft.add(EventKind::kProgressMark, kActor, {{"progress", live_.progress}});
    }
    end_attempt(draft, end, checkpoint, core_.jitter());
    commit_end(std::move(draft), end);
  }

  // Hosts where processes could not be ended take nothing new until somebody has looked.
  void commit_end(RunChange draft, const AttemptEnd& end) {
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

  EngineCore& core_;
  AttemptWatch& watch_;
  RunPtr record_;
  LiveAttempt live_;
  std::int64_t now_;
};

}  // namespace

bool Verification::ready() const {
  return result.wait_for(std::chrono::seconds(0)) != std::future_status::timeout;
}

void EngineCore::watch_attempt(const RunPtr& record) {
  const AttemptRef ref = record->current_ref();
  AttemptWatch& watch = watches[ref.run];
  if (watch.ref != ref) {
    watch = AttemptWatch{};
    watch.ref = ref;
    watch.verified_step = record->run.checkpoint_step;
  }
  AttemptWatcher(*this, watch, record).run();
}

void EngineCore::launch_attempt(const RunPtr& record) {
  AttemptWatch& watch = watches[record->run.id];
  watch = AttemptWatch{};
  watch.ref = record->current_ref();
  watch.verified_step = record->run.checkpoint_step;
  AttemptWatcher(*this, watch, record).launch();
}

void EngineCore::watch_attempts(const std::vector<RunPtr>& runs) {
  for (const RunPtr& record : runs) {
    if (!has_attempt(record->run.state)) {
      watches.erase(record->run.id);
      continue;
    }
    try {
      watch_attempt(record);
    } catch (const EngineError& error) {
      throw;  // the store: nothing else can be committed either
    } catch (const std::exception& error) {
      log.error("engine", "run {}: {}", record->run.id, error.what());
    }
  }
}

}  // namespace lockstep::launcher::coordinator
