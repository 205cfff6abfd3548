#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "coordinator/engine/requests.h"

namespace lockstep::coordinator {

// What heartbeats have told of an attempt; lost with the coordinator, and told again.
// Times are on the steady clock, but for those of `progress`, which people see.
struct LiveAttempt {
  AttemptRef ref;
  std::int64_t total_steps = 0;
  std::int64_t last_contact_ns = 0;  // a heartbeat, or when the attempt was first looked at
  std::int64_t activity = -1;
  std::uint64_t collective_sequence = 0;
  std::int64_t activity_time_ns = 0;  // when activity last rose
  std::int64_t checkpoint_step = 0;   // newest whole one that the agent told of
  std::int64_t acked_control_id = 0;
  std::int64_t failed_control_id = 0;
  std::int64_t step_before_ack = 0;  // told by the heartbeat before the acknowledging one
  Progress progress;
  std::string phase;
  bool has_beaten = false;
  std::deque<double> step_seconds;       // of the newest steps
  std::int64_t checkpoint_asked_ns = 0;  // of the request in progress, as seen by this coordinator

  // Seconds; nothing before the first step.
  std::optional<double> median_step_seconds() const;
};

// Thread-safe: agents write, the tick reads copies.
class LiveAttempts {
 public:
  // The entry of this attempt, made if there is none or only one of an earlier attempt.
  LiveAttempt get(const AttemptRef& ref, std::int64_t steady_ns);
  void registered(const AgentRegistration& registration, const Moment& now);
  // The progress that the run shows from now on. total_steps: as the agent once registered.
  Progress beat(const Beat& beat, std::int64_t total_steps, const Moment& now);
  void checkpoint_asked(const AttemptRef& ref, std::int64_t steady_ns);
  void forget(const std::string& run);

 private:
  LiveAttempt& entry(const AttemptRef& ref, std::int64_t steady_ns);

  std::mutex mutex_;
  std::map<std::string, LiveAttempt> entries_;  // by run
};

}  // namespace lockstep::coordinator
