#include <algorithm>

#include <fmt/format.h>

#include "coordinator/engine/engine_core.h"

// Why a run waits, or why it ended.
namespace lockstep::coordinator {
namespace {

const char* advice_for(FailureCategory category) {
  switch (category) {
    case FailureCategory::kConfig:
      return "Correct the configuration and submit it again; `lockstep config check` tells the "
             "same.";
    case FailureCategory::kLaunch:
      return "Look at the launcher's log (`lockstep logs`): mpirun or a host is not usable.";
    case FailureCategory::kDependency:
      return "Retry the run that failed first, then this one.";
    case FailureCategory::kUserExit:
      return "Look at the failing rank's log.";
    case FailureCategory::kRankSignal:
      return "A rank was killed: look at its log, and at the host for a lack of memory.";
    case FailureCategory::kOom:
      return "Use a smaller batch.micro or more ranks; `lockstep plan` predicts the need.";
    case FailureCategory::kNumeric:
      return "The numerics diverged: lower the learning rate or go back to an earlier checkpoint; "
             "`lockstep replay` of the bundle in the run's output shows where.";
    case FailureCategory::kData:
      return "Repair the file that is named, then retry.";
    case FailureCategory::kHang:
      return "Look at the rank that is named; retry goes on from the newest whole checkpoint.";
    case FailureCategory::kHostLost:
      return "Look at the host, or drain it; then retry.";
    case FailureCategory::kTimeLimit:
      return "Retry with a longer time limit.";
    case FailureCategory::kLogQuota:
    case FailureCategory::kDiskFull:
      return "Make room on the disk, then retry.";
    case FailureCategory::kCrashLoop:
      return "It fails at the same place each time: look at the failing rank's log before a retry.";
    case FailureCategory::kCommunication:
      return "A rank was lost or disagreed: `lockstep flight` on the run's output tells which.";
    default:
      return "Look at the failing rank's log.";
  }
}

FailureReport report_of(const RunRecord& record, const ExitInfo& exit) {
  FailureReport report;
  report.exit = exit;
  report.advice = advice_for(exit.category);
  if (const Attempt* attempt = record.current()) report.stuck = attempt->stuck;
  report.retry_planned = record.run.state == RunState::kBackoff;
  return report;
}

void explain_waiting(const EngineCore& core, const Run& run, Explanation& told) {
  if (run.hold) told.reasons.push_back({"HOLD", "it is held; resume releases it"});
  for (const std::string& id : run.after_pending) {
    const RunPtr other = core.table.committed(id);
    told.reasons.push_back(
        {"DEPENDENCY", fmt::format("run {} must succeed first; it is {}", id,
                                   other ? to_string(other->run.state) : "not known")});
  }
}

void explain_queued(const EngineCore& core, const Run& run, Explanation& told) {
  if (core.is_blocked(run.id)) {
    const std::lock_guard lock(core.unknown_mutex);
    told.reasons.push_back({"UNKNOWN_ATTEMPT", describe_unknown(core.unknown.at(run.id))});
    return;
  }
  const Plan planned = core.current_plan();
  for (const Wait& wait : planned.waits) {
    if (wait.run != run.id) continue;
    for (const WaitReason& reason : wait.reasons) {
      told.reasons.push_back({reason.reason, reason.message});
    }
    told.runs_ahead.assign(planned.line.begin(),
                           planned.line.begin() + static_cast<std::ptrdiff_t>(wait.ahead));
    told.start_estimate_ns = wait.start_estimate_ns.value_or(0);
    return;
  }
  told.reasons.push_back({"STARTING", "its slots are free; it is about to start"});
}

void explain_backoff(const EngineCore& core, const Run& run, Explanation& told) {
  const Moment now = core.moment();
  const std::int64_t left = std::max<std::int64_t>(0, core.backoff_left_ns(run, now));
  const double seconds = static_cast<double>(left) / kSecond;
  told.reasons.push_back(
      {"BACKOFF", fmt::format("restart {} begins in {:.0f} s", run.restart_count, seconds)});
  told.start_estimate_ns = now.unix_ns + left;
}

// Of a run of which nothing else is to be said.
std::string what_it_is(const Run& run) {
  switch (run.state) {
    case RunState::kStarting:
      return "its ranks are being started";
    case RunState::kSucceeded:
      return fmt::format("all {} steps are done", run.progress.total_steps);
    case RunState::kCancelled:
      return run.current_attempt == 0
                 ? "it was cancelled before it was started"
                 : fmt::format("it was cancelled at step {}", run.progress.step);
    default:
      return fmt::format("it is {}", to_string(run.state));
  }
}

std::string summary_of(const Explanation& told) {
  const Run& run = told.run->run;
  std::string text;
  if (!told.reasons.empty()) {
    text = told.reasons.front().message;
  } else if (run.state == RunState::kRunning) {
    text = fmt::format("step {} of {}", run.progress.step, run.progress.total_steps);
    if (!run.state_message.empty()) text += "; " + run.state_message;
  } else {
    text = run.state_message;
  }
  if (run.suspect) text += "; its agent has not been heard of, and training may well go on";
  return text.empty() ? what_it_is(run) : text;
}

}  // namespace

Explanation Engine::explain(const std::string& name) const {
  Explanation told;
  told.run = find(name);
  const Run& run = told.run->run;
  if (run.state == RunState::kWaiting) explain_waiting(*core_, run, told);
  if (run.state == RunState::kQueued) explain_queued(*core_, run, told);
  if (run.state == RunState::kBackoff) explain_backoff(*core_, run, told);
  if (run.state == RunState::kStopping && run.failure) {
    told.failure = report_of(*told.run, *run.failure);
  } else if ((run.state == RunState::kFailed || run.state == RunState::kBackoff) && run.result) {
    told.failure = report_of(*told.run, *run.result);
  }
  told.summary = summary_of(told);
  return told;
}

}  // namespace lockstep::coordinator
