#include <algorithm>
#include <chrono>

#include <fmt/format.h>

#include "coordinator/attempts/process.h"
#include "coordinator/engine/attempt_watcher.h"
#include "coordinator/model/run_json.h"

// An attempt while it runs: heard of or silent, saving, late, or stuck.
namespace lockstep::coordinator {

// Silence is never a failure: the ranks may well be training.
void AttemptWatcher::watch_contact() {
  if (!uses_agent() || now_run().state != RunState::kRunning) return;
  if (is_silent() == now_run().suspect) return;
  change([&](RunChange& draft) {
    if (draft.run().state != RunState::kRunning || draft.run().suspect == is_silent()) return;
    draft.add(is_silent() ? EventKind::kSuspect : EventKind::kRecovered, kCoordinatorActor,
              {{"message", fmt::format("last heard of {:.0f} s ago",
                                       static_cast<double>(silence_ns()) / kSecond)}});
  });
}

void AttemptWatcher::watch_checkpoints() {
  if (now_run().state != RunState::kRunning) return;
  if (now_run().checkpoint_wanted && live_.checkpoint_asked_ns == 0) {
    core_.live.checkpoint_asked(watch_.ref, steady_ns());
    live_.checkpoint_asked_ns = steady_ns();
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
  if (now_run().checkpoint_wanted && !watch_.verification &&
      live_.failed_control_id >= now_run().checkpoint_control_id) {
    return fail_checkpoint(
        "the run could not save the checkpoint that was asked for and goes on; "
        "its log says why");
  }
  const bool late = live_.checkpoint_asked_ns != 0 && !watch_.verification &&
                    steady_ns() - live_.checkpoint_asked_ns > core_.options.checkpoint_deadline_ns;
  if (late) fail_checkpoint("the checkpoint that was asked for did not come in time");
}

// The agent had the request when it told of this checkpoint, and the checkpoint is not one from
// before the request.
bool AttemptWatcher::answers_request(std::int64_t step) const {
  return live_.acked_control_id >= now_run().checkpoint_control_id && step > 0 &&
         step >= live_.step_before_ack;
}

void AttemptWatcher::verify(std::int64_t step) {
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

void AttemptWatcher::take_verification() {
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

void AttemptWatcher::commit_checkpoint(const CheckpointInfo& found, bool answers) {
  const Progress progress = live_.progress;
  change([&](RunChange& draft) {
    if (draft.run().state != RunState::kRunning) return;
    draft.add(EventKind::kProgressMark, "agent", {{"progress", progress}});
    draft.add(EventKind::kCheckpointCommitted, "agent",
              {{"step", found.step}, {"path", found.path}, {"answers_request", answers}});
    const StopIntent intent = draft.run().stop_intent;
    if (answers && intent != StopIntent::kNone && intent <= StopIntent::kPause) {
      draft.add(EventKind::kStopping, kCoordinatorActor,
                {{"reason", to_string(intent)},
                 {"message", fmt::format("the checkpoint of step {} is whole", found.step)},
                 {"failure", nullptr}});
    }
  });
}

void AttemptWatcher::fail_checkpoint(const std::string& message) {
  change([&](RunChange& draft) {
    if (draft.run().state != RunState::kRunning || !draft.run().checkpoint_wanted) return;
    draft.add(EventKind::kCheckpointFailed, kCoordinatorActor, {{"message", message}});
  });
  core_.live.checkpoint_asked(watch_.ref, 0);
}

void AttemptWatcher::watch_deadlines() {
  const Run& run = now_run();
  const Attempt& attempt = *record_->current();
  if (run.state == RunState::kStarting &&
      elapsed_ns(now_, attempt.created_at, attempt.create_time_ns) >
          core_.options.start_deadline_ns) {
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
  if (!timed) return;
  const std::int64_t passed = elapsed_ns(now_, attempt.started_at, attempt.start_time_ns);
  if (passed <= run.time_limit_ns) return;
  change([&](RunChange& draft) {
    if (draft.run().state != RunState::kRunning) return;
    StopOrder order;
    order.reason = fmt::format("the time limit of {:.0f} s is over",
                               static_cast<double>(draft.run().time_limit_ns) / kSecond);
    add_stop_request(draft, StopIntent::kTimeLimit, kCoordinatorActor, order);
  });
}

// Before the first step there is nothing to compare with, and much may have to be set up.
std::int64_t AttemptWatcher::hang_limit_ns() const {
  const std::optional<double> median = live_.median_step_seconds();
  if (!median) return std::max(core_.options.hang_floor_ns, core_.options.first_step_ns);
  const double steps = static_cast<double>(core_.options.hang_steps) * *median * kSecond;
  return std::max(core_.options.hang_floor_ns, static_cast<std::int64_t>(steps));
}

// Silence alone says nothing: an agent that is cut off from here may train. But one whose process
// stands still under a signal (SIGSTOP) does neither.
bool AttemptWatcher::is_stopped(const AttemptStatus& status) const {
  if (!is_silent()) return false;
  for (const RankProcess& rank : status.ranks) {
    if (rank.rank != 0 || !rank.alive) continue;
    const auto stat = read_stat(static_cast<pid_t>(rank.pid));
    return stat && stat->state == 'T';
  }
  return false;
}

void AttemptWatcher::watch_activity(const AttemptStatus& status) {
  if (!uses_agent() || now_run().state != RunState::kRunning) return;
  const std::int64_t still = steady_ns() - live_.activity_time_ns;
  if (still <= hang_limit_ns()) return;
  const bool stopped = is_stopped(status);
  if (is_silent() && !stopped) return;
  const std::string message =
      fmt::format("nothing has moved for {:.0f} s at step {} ({}), collective {}{}",
                  static_cast<double>(still) / kSecond, live_.progress.step,
                  live_.phase.empty() ? "unknown phase" : live_.phase, live_.collective_sequence,
                  stopped ? "; the process of rank 0 is stopped (SIGSTOP)" : "");
  change([&](RunChange& draft) {
    if (draft.run().state != RunState::kRunning) return;
    add_stopping(draft, failure_of(FailureCategory::kHang, message));
  });
}

}  // namespace lockstep::coordinator
