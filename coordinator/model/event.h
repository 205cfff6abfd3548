#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace lockstep::coordinator {

// What can happen to a run. The members of the context of each are in run_machine.h.
enum class EventKind : std::uint8_t {
  kSubmitted,
  kDependencySatisfied,
  kUpdated,
  kHeld,
  kReleased,
  kQueued,
  kAttemptCreated,
  kLaunched,
  kRanksReady,
  kProgressMark,
  kCheckpointRequested,
  kCheckpointCommitted,
  kCheckpointFailed,
  kStopRequested,
  kControlAcked,
  kStopping,
  kAttemptEnded,
  kSlotsReleased,
  kRetryScheduled,
  kPaused,
  kResumed,
  kSuspect,
  kRecovered,
  kCoordinatorRestarted,
  kCleanup,
  kAdopted,
  kTerminal,
};

// "submitted", "attempt_created", ...; parse throws Error(kData) for any other text.
const char* to_string(EventKind kind);
EventKind parse_event_kind(std::string_view name);

// One entry of the append-only log.
struct Event {
  std::int64_t sequence = 0;      // of the server, rising; given by the store's commit
  std::int64_t run_sequence = 0;  // of the run, dense, from 1
  std::string run;                // id
  EventKind kind = EventKind::kSubmitted;
  std::int64_t time_ns = 0;
  std::string actor;  // token name, "local", "coordinator", "scheduler", "agent"
  nlohmann::json context = nlohmann::json::object();  // versioned by its member "v"

  bool operator==(const Event&) const = default;
};

}  // namespace lockstep::coordinator
