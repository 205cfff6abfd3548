#pragma once

#include <functional>
#include <string>

#include "coordinator/engine/engine_core.h"
#include "coordinator/model/retry_rules.h"

namespace lockstep::coordinator {

// One look at one attempt: what its processes and its agent have done since the last one becomes
// events, and what its run wants becomes calls to the processes. Everything is found out from the
// record and from the processes each time, so a tick that could not commit, or a coordinator that
// died between two, goes on where it stopped. tick_mutex is held.
class AttemptWatcher {
 public:
  AttemptWatcher(EngineCore& core, AttemptWatch& watch, RunPtr record);

  void run();
  void launch();  // of an attempt that has just been committed

 private:
  const Run& now_run() const { return record_->run; }
  bool uses_agent() const { return !core_.options.agent_address.empty(); }
  std::int64_t now_ns() const { return now_.unix_ns; }       // for people
  std::int64_t steady_ns() const { return now_.steady.ns; }  // for all that is measured
  std::int64_t silence_ns() const { return steady_ns() - live_.last_contact_ns; }
  bool is_silent() const { return silence_ns() > core_.options.suspect_after_ns; }
  // Decides on the run as it is now, unless this attempt is no longer its current one.
  void change(const std::function<void(RunChange&)>& decide);

  // attempt_watcher.cc: start, stop, end
  void absent();
  void note_launch(const AttemptStatus& status);
  void note_acknowledgement();
  StopRequest wanted_stop() const;
  void stop_if_asked();
  void ended(const AttemptStatus& status);
  void conclude(const AttemptEnd& end);
  void commit_end(RunChange draft, const AttemptEnd& end);

  // attempt_progress.cc: while it runs
  void watch_contact();
  void watch_checkpoints();
  bool answers_request(std::int64_t step) const;
  void verify(std::int64_t step);
  void take_verification();
  void commit_checkpoint(const CheckpointInfo& found, bool answers);
  void fail_checkpoint(const std::string& message);
  void watch_deadlines();
  std::int64_t hang_limit_ns() const;
  bool is_stopped(const AttemptStatus& status) const;
  void watch_activity(const AttemptStatus& status);

  EngineCore& core_;
  AttemptWatch& watch_;
  RunPtr record_;
  LiveAttempt live_;
  const Moment now_;
};

// The actor of what the engine itself decides.
inline constexpr const char* kCoordinatorActor = "coordinator";

// A failure that is known before the processes have ended.
ExitInfo failure_of(FailureCategory category, const std::string& message);
void add_stopping(RunChange& change, const ExitInfo& failure);

}  // namespace lockstep::coordinator
