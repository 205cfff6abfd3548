#pragma once

#include <string>
#include <vector>

#include "coordinator/model/run_change.h"
#include "coordinator/model/run_json.h"
#include "coordinator/model/run_machine.h"

// Runs in every state, made by events alone.
namespace lockstep::coordinator::testing {

inline const std::vector<RunState>& all_states() {
  static const std::vector<RunState> states = {
      RunState::kWaiting,  RunState::kQueued,   RunState::kStarting, RunState::kRunning,
      RunState::kStopping, RunState::kBackoff,  RunState::kPaused,   RunState::kSucceeded,
      RunState::kFailed,   RunState::kCancelled};
  return states;
}

inline Run submitted_run(const std::string& id = "0run") {
  Run run;
  run.id = id;
  run.owner = "local";
  run.output = "/out/" + id;
  run.resume_from = "never";
  return run;
}

inline RunChange new_run(const Run& run, std::int64_t now_ns = kSecond) {
  RunChange change({}, now_ns);
  change.add(EventKind::kSubmitted, "local", {{"run", run}});
  return change;
}

inline ExitInfo exit_of(FailureCategory category, int rank = -1, std::int64_t step = 0) {
  ExitInfo exit;
  exit.category = category;
  exit.failing_rank = rank;
  exit.step = step;
  return exit;
}

inline void add_attempt(RunChange& change) {
  const int number = change.run().current_attempt + 1;
  change.add(EventKind::kAttemptCreated, "scheduler",
             {{"number", number},
              {"fence", 10 + number},
              {"placements", std::vector<Placement>{{"h1", {0, 1}}}},
              {"resume", number == 1 ? "never" : "auto"},
              {"agent_token_hash", ""}});
}

inline void add_checkpoint(RunChange& change, std::int64_t step) {
  change.add(EventKind::kCheckpointCommitted, "agent",
             {{"step", step}, {"path", "/out/checkpoints/step-" + std::to_string(step)}});
}

inline void add_stopping(RunChange& change) {
  change.add(EventKind::kStopping, "coordinator",
             {{"reason", "TEST"}, {"message", ""}, {"failure", nullptr}});
}

inline void add_ended(RunChange& change, const ExitInfo& exit) {
  change.add(EventKind::kAttemptEnded, "coordinator",
             {{"exit", exit}, {"end_time_ns", change.now_ns()}});
}

inline void add_terminal(RunChange& change, RunState state) {
  change.add(EventKind::kTerminal, "coordinator",
             {{"state", to_string(state)}, {"reason", "TEST"}, {"message", ""}});
}

inline void add_stop_request(RunChange& change, StopIntent intent, bool force = false) {
  change.add(EventKind::kStopRequested, "local",
             {{"intent", to_string(intent)},
              {"reason", "because"},
              {"force", force},
              {"grace_ns", 30 * kSecond}});
}

inline void bring_to_running(RunChange& change) {
  change.add(EventKind::kQueued, "coordinator");
  add_attempt(change);
  change.add(EventKind::kLaunched, "coordinator");
  change.add(EventKind::kRanksReady, "agent", {{"resumed_from", ""}});
}

inline void bring_from_running(RunChange& change, RunState state) {
  add_checkpoint(change, 5);
  if (state == RunState::kPaused) add_stop_request(change, StopIntent::kPause);
  add_stopping(change);
  if (state == RunState::kStopping) return;
  add_ended(change, exit_of(FailureCategory::kRankSignal, 1, 7));
  change.add(EventKind::kSlotsReleased, "coordinator", {{"number", 1}});
  if (state == RunState::kBackoff) {
    change.add(EventKind::kRetryScheduled, "coordinator",
               {{"due_ns", 99 * kSecond}, {"delay_ns", kSecond}, {"category", "RANK_SIGNAL"}});
  } else if (state == RunState::kPaused) {
    change.add(EventKind::kPaused, "coordinator", {{"reason", "PAUSE"}});
  } else {
    add_terminal(change, state);
  }
}

// A run in this state, all by legal events.
inline RunChange run_in(RunState state) {
  RunChange change = new_run(submitted_run());
  if (state == RunState::kWaiting) return change;
  if (state == RunState::kQueued) {
    change.add(EventKind::kQueued, "coordinator");
    return change;
  }
  if (state == RunState::kStarting) {
    change.add(EventKind::kQueued, "coordinator");
    add_attempt(change);
    return change;
  }
  bring_to_running(change);
  if (state != RunState::kRunning) bring_from_running(change, state);
  return change;
}

}  // namespace lockstep::coordinator::testing
