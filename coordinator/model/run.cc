#include "coordinator/model/run.h"

#include <array>

#include <fmt/format.h>

#include "core/error.h"

namespace lockstep::coordinator {
namespace {

template <typename Enum>
struct Name {
  Enum value;
  const char* text;
};

constexpr std::array kRunStates = {
    Name<RunState>{RunState::kWaiting, "WAITING"},
    Name<RunState>{RunState::kQueued, "QUEUED"},
    Name<RunState>{RunState::kStarting, "STARTING"},
    Name<RunState>{RunState::kRunning, "RUNNING"},
    Name<RunState>{RunState::kStopping, "STOPPING"},
    Name<RunState>{RunState::kBackoff, "BACKOFF"},
    Name<RunState>{RunState::kPaused, "PAUSED"},
    Name<RunState>{RunState::kSucceeded, "SUCCEEDED"},
    Name<RunState>{RunState::kFailed, "FAILED"},
    Name<RunState>{RunState::kCancelled, "CANCELLED"},
};

constexpr std::array kStopIntents = {
    Name<StopIntent>{StopIntent::kNone, "NONE"},
    Name<StopIntent>{StopIntent::kPreempt, "PREEMPT"},
    Name<StopIntent>{StopIntent::kHostDrain, "HOST_DRAIN"},
    Name<StopIntent>{StopIntent::kPause, "PAUSE"},
    Name<StopIntent>{StopIntent::kTimeLimit, "TIME_LIMIT"},
    Name<StopIntent>{StopIntent::kCancel, "CANCEL"},
};

constexpr std::array kAttemptStates = {
    Name<AttemptState>{AttemptState::kCreated, "CREATED"},
    Name<AttemptState>{AttemptState::kLaunching, "LAUNCHING"},
    Name<AttemptState>{AttemptState::kActive, "ACTIVE"},
    Name<AttemptState>{AttemptState::kEnding, "ENDING"},
    Name<AttemptState>{AttemptState::kEnded, "ENDED"},
};

constexpr std::array kCategories = {
    Name<FailureCategory>{FailureCategory::kUnspecified, "UNSPECIFIED"},
    Name<FailureCategory>{FailureCategory::kDone, "DONE"},
    Name<FailureCategory>{FailureCategory::kStopped, "STOPPED"},
    Name<FailureCategory>{FailureCategory::kConfig, "CONFIG"},
    Name<FailureCategory>{FailureCategory::kLaunch, "LAUNCH"},
    Name<FailureCategory>{FailureCategory::kDependency, "DEPENDENCY"},
    Name<FailureCategory>{FailureCategory::kUserExit, "USER_EXIT"},
    Name<FailureCategory>{FailureCategory::kRankSignal, "RANK_SIGNAL"},
    Name<FailureCategory>{FailureCategory::kOom, "OOM"},
    Name<FailureCategory>{FailureCategory::kNumeric, "NUMERIC"},
    Name<FailureCategory>{FailureCategory::kData, "DATA"},
    Name<FailureCategory>{FailureCategory::kHang, "HANG"},
    Name<FailureCategory>{FailureCategory::kHostLost, "HOST_LOST"},
    Name<FailureCategory>{FailureCategory::kCoordinator, "COORDINATOR"},
    Name<FailureCategory>{FailureCategory::kTimeLimit, "TIME_LIMIT"},
    Name<FailureCategory>{FailureCategory::kLogQuota, "LOG_QUOTA"},
    Name<FailureCategory>{FailureCategory::kDiskFull, "DISK_FULL"},
    Name<FailureCategory>{FailureCategory::kPreempted, "PREEMPTED"},
    Name<FailureCategory>{FailureCategory::kCrashLoop, "CRASH_LOOP"},
    Name<FailureCategory>{FailureCategory::kCommunication, "COMMUNICATION"},
    Name<FailureCategory>{FailureCategory::kInternal, "INTERNAL"},
};

template <typename Table, typename Enum>
const char* name_in(const Table& table, Enum value) {
  for (const auto& entry : table) {
    if (entry.value == value) return entry.text;
  }
  return "UNKNOWN";
}

template <typename Table>
auto value_in(const Table& table, std::string_view name, const char* what) {
  for (const auto& entry : table) {
    if (name == entry.text) return entry.value;
  }
  throw core::Error(core::ErrorKind::kData, fmt::format("'{}' is no {}", name, what));
}

}  // namespace

const char* to_string(RunState state) {
  return name_in(kRunStates, state);
}
const char* to_string(StopIntent intent) {
  return name_in(kStopIntents, intent);
}
const char* to_string(AttemptState state) {
  return name_in(kAttemptStates, state);
}
const char* to_string(FailureCategory category) {
  return name_in(kCategories, category);
}

RunState parse_run_state(std::string_view name) {
  return value_in(kRunStates, name, "state of a run");
}
StopIntent parse_stop_intent(std::string_view name) {
  return value_in(kStopIntents, name, "stop intent");
}
AttemptState parse_attempt_state(std::string_view name) {
  return value_in(kAttemptStates, name, "state of an attempt");
}
FailureCategory parse_failure_category(std::string_view name) {
  return value_in(kCategories, name, "failure category");
}

bool is_terminal(RunState state) {
  return state == RunState::kSucceeded || state == RunState::kFailed ||
         state == RunState::kCancelled;
}

bool has_attempt(RunState state) {
  return state == RunState::kStarting || state == RunState::kRunning ||
         state == RunState::kStopping;
}

const Attempt* RunRecord::current() const {
  return attempts.empty() ? nullptr : &attempts.back();
}

AttemptRef RunRecord::current_ref() const {
  const Attempt& attempt = attempts.back();
  return {run.id, attempt.number, attempt.fence};
}

std::string etag_of(const Run& run) {
  return fmt::format("{}", run.run_sequence);
}

}  // namespace lockstep::coordinator
