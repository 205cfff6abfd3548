#include "coordinator/model/retry_rules.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "coordinator/model/run_json.h"

namespace lockstep::coordinator {
namespace {

using nlohmann::json;

constexpr int kLaunchRetries = 2;
constexpr int kHangRetries = 1;
constexpr double kJitter = 0.25;
constexpr const char* kActor = "coordinator";
constexpr const char* kOwnTimeOver = "run.time_limit";  // begins what the trainer says then

bool may_loop(FailureCategory category) {
  switch (category) {
    case FailureCategory::kUserExit:
    case FailureCategory::kRankSignal:
    case FailureCategory::kCommunication:
    case FailureCategory::kInternal:
    case FailureCategory::kHang:
      return true;
    default:
      return false;
  }
}

std::string where(const ExitInfo& exit) {
  std::string text;
  if (exit.failing_rank >= 0) text += fmt::format("rank {}", exit.failing_rank);
  if (!exit.host.empty()) text += fmt::format("{}host {}", text.empty() ? "" : " on ", exit.host);
  if (exit.step > 0) text += fmt::format("{}step {}", text.empty() ? "" : ", ", exit.step);
  return text;
}

std::string failure_text(const ExitInfo& exit) {
  const std::string place = where(exit);
  std::string text = to_string(exit.category);
  if (!place.empty()) text += fmt::format(" ({})", place);
  if (!exit.message.empty()) text += ": " + exit.message;
  return text;
}

void add_terminal(RunChange& change, RunState state, FailureCategory category,
                  const std::string& reason, const std::string& message) {
  change.add(EventKind::kTerminal, kActor,
             {{"state", to_string(state)},
              {"category", to_string(category)},
              {"reason", reason},
              {"message", message}});
}

void fail(RunChange& change, FailureCategory category, const std::string& message) {
  add_terminal(change, RunState::kFailed, category, to_string(category), message);
}

void pause(RunChange& change, const ExitInfo& exit) {
  const Run& run = change.run();
  const std::int64_t lost = std::max<std::int64_t>(0, exit.step - run.checkpoint_step);
  std::string message = fmt::format("goes on from step {}", run.checkpoint_step);
  if (lost > 0) message += fmt::format("; {} later steps are lost", lost);
  const bool clean = exit.category == FailureCategory::kStopped;
  if (!clean) message += "; it ended by " + failure_text(exit);
  const bool asked = run.stop_intent == StopIntent::kPause;
  change.add(EventKind::kPaused, kActor,
             {{"reason", asked ? "PAUSE" : "STOPPED"},
              {"message", message},
              {"checkpoint", run.latest_checkpoint},
              {"lost_steps", lost}});
}

void retry(RunChange& change, const ExitInfo& exit, double jitter) {
  const Run& run = change.run();
  const std::int64_t delay = retry_delay_ns(run.retry_policy, run.budget_used, jitter);
  BootTime due = change.boot_time();
  due.ns += delay;
  change.add(EventKind::kRetryScheduled, kActor,
             {{"due_ns", change.now_ns() + delay},
              {"due", due},
              {"delay_ns", delay},
              {"category", to_string(exit.category)},
              {"reason", to_string(exit.category)},
              {"message", fmt::format("{}; next attempt in {:.1f} s", failure_text(exit),
                                      static_cast<double>(delay) / kSecond)}});
}

// A failure that nobody asked for, or a stop without a checkpoint to pause with.
void fail_or_retry(RunChange& change, const ExitInfo& exit, double jitter) {
  const Run& run = change.run();
  if (!exit.retryable) return fail(change, exit.category, failure_text(exit));
  if (is_crash_loop(change.record())) {
    return fail(change, FailureCategory::kCrashLoop,
                fmt::format("twice the same without a new checkpoint: {}", failure_text(exit)));
  }
  if (run.budget_used >= std::max(0, run.retry_policy.max_restarts)) {
    return fail(change, exit.category,
                fmt::format("{}; {} restarts are used up", failure_text(exit), run.budget_used));
  }
  retry(change, exit, jitter);
}

void conclude(RunChange& change, const ExitInfo& exit, double jitter) {
  const Run& run = change.run();
  const bool done = exit.category == FailureCategory::kDone;
  const bool stopped = exit.category == FailureCategory::kStopped;
  const bool checkpointed = !run.latest_checkpoint.empty();
  switch (run.stop_intent) {
    case StopIntent::kCancel:
      return add_terminal(change, RunState::kCancelled, exit.category, "CANCEL",
                          run.stop_order.reason);
    case StopIntent::kTimeLimit:
      if (done) break;
      return fail(change, FailureCategory::kTimeLimit, run.stop_order.reason);
    case StopIntent::kPreempt:
    case StopIntent::kHostDrain:
      if (done || (!stopped && !exit.retryable)) break;
      change.add(EventKind::kQueued, kActor,
                 {{"reason", to_string(run.stop_intent)}, {"message", run.stop_order.reason}});
      return;
    case StopIntent::kPause:
      if (done || !checkpointed || !exit.retryable) break;
      return pause(change, exit);
    case StopIntent::kNone:
      // Its own time, which its configuration gives it, is over. Any other stop that nobody asked for
      // came from outside, as when the machine goes down: it is tried again.
      if (!stopped || !checkpointed || !exit.message.starts_with(kOwnTimeOver)) break;
      return pause(change, exit);
  }
  if (done) {
    return add_terminal(change, RunState::kSucceeded, FailureCategory::kDone, "DONE", "");
  }
  fail_or_retry(change, exit, jitter);
}

}  // namespace

bool is_retryable(const ExitInfo& exit, const Run& run) {
  const std::vector<int>& codes = run.retry_policy.on_exit_codes;
  switch (exit.category) {
    case FailureCategory::kRankSignal:
    case FailureCategory::kHostLost:
    case FailureCategory::kCoordinator:
    case FailureCategory::kCommunication:
    case FailureCategory::kStopped:
    case FailureCategory::kPreempted:
      return true;
    case FailureCategory::kLaunch:
      return run.launch_failures < kLaunchRetries;
    case FailureCategory::kHang:
      return run.hang_count < kHangRetries;
    case FailureCategory::kUserExit:
      return std::find(codes.begin(), codes.end(), exit.code) != codes.end();
    default:
      return false;
  }
}

std::int64_t retry_delay_ns(const RetryPolicy& policy, int earlier, double jitter) {
  const double doubled =
      std::ldexp(static_cast<double>(policy.base_delay_ns), std::min(earlier, 62));
  const double capped = std::min(doubled, static_cast<double>(policy.max_delay_ns));
  const double chance = std::clamp(jitter, -1.0, 1.0) * kJitter;
  return std::max<std::int64_t>(0, std::llround(capped * (1.0 + chance)));
}

bool is_crash_loop(const RunRecord& record) {
  const std::size_t count = record.attempts.size();
  if (count < 2) return false;
  const Attempt& now = record.attempts[count - 1];
  const Attempt& before = record.attempts[count - 2];
  if (!now.exit || !before.exit || !may_loop(now.exit->category)) return false;
  return now.exit->category == before.exit->category &&
         now.exit->failing_rank == before.exit->failing_rank &&
         now.exit->step == before.exit->step && now.checkpoint_step == before.checkpoint_step;
}

void end_attempt(RunChange& change, const AttemptEnd& end,
                 const std::optional<VerifiedCheckpoint>& checkpoint, double jitter) {
  ExitInfo exit = end.exit;
  if (change.run().failure && exit.category != FailureCategory::kDone) {
    exit.category = change.run().failure->category;
    if (exit.message.empty()) exit.message = change.run().failure->message;
  }
  exit.retryable = is_retryable(exit, change.run());
  if (change.run().state != RunState::kStopping) {
    const bool bad =
        exit.category != FailureCategory::kDone && exit.category != FailureCategory::kStopped;
    change.add(EventKind::kStopping, kActor,
               {{"reason", to_string(exit.category)},
                {"message", bad ? failure_text(exit) : std::string()},
                {"failure", nullptr}});
  }
  if (checkpoint && checkpoint->path != change.run().latest_checkpoint) {
    change.add(EventKind::kCheckpointCommitted, kActor,
               {{"step", checkpoint->step}, {"path", checkpoint->path}});
  }
  if (!checkpoint && !change.run().latest_checkpoint.empty()) {
    change.add(EventKind::kCheckpointFailed, kActor,
               {{"message", "the newest checkpoint is no longer whole, and there is no older one"},
                {"lost", true}});
  }
  change.add(EventKind::kAttemptEnded, kActor,
             {{"exit", exit}, {"end_time_ns", end.end_time_ns}, {"stuck", end.stuck}});
  change.add(EventKind::kSlotsReleased, kActor, {{"number", change.run().current_attempt}});
  if (end.cleanup != change.run().cleanup_state) {
    change.add(EventKind::kCleanup, kActor, {{"cleanup_state", end.cleanup}});
  }
  conclude(change, exit, jitter);
}

}  // namespace lockstep::coordinator
