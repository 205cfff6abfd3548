#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "core/log.h"
#include "runtime/trainer/run_monitor.h"

namespace lockstep::coordinator::agent {

// Where the coordinator is, and as which attempt this rank speaks.
struct AgentOptions {
  std::string address;  // as gRPC takes it: "unix:/path", "127.0.0.1:7070"
  std::string secret;   // of this attempt; empty: none
  std::string run;
  std::int32_t attempt = 0;
  std::int64_t fence = 0;
  std::string ca_file;  // PEM; TLS is used with it, and for every address that is not this machine
  std::string certificate_file;  // PEM, to be shown; empty: none
  std::string key_file;
};

// From LOCKSTEP_COORDINATOR, LOCKSTEP_ATTEMPT, LOCKSTEP_AGENT_TOKEN_FILE, LOCKSTEP_CA,
// LOCKSTEP_CERTIFICATE and LOCKSTEP_KEY. Nothing without the first: then nobody is to be told.
// Throws Error(kConfig) when the rest does not fit it.
std::optional<AgentOptions> options_from_environment();

// What does not change while the run trains.
struct RunFacts {
  std::int32_t world_size = 1;
  std::int64_t total_steps = 0;
  std::int64_t resumed_step = 0;  // 0: from the start
  std::string flight_file;        // of this rank; for the number of its newest collective
};

// Rank 0's side of the coordinator's AgentService: registers, then tells about the run every second
// and passes on what the coordinator wants, from a thread of its own. A coordinator that is away,
// slow, or refuses is tried again for ever, ever more rarely (up to 5 s); training never notices.
// When told that another attempt has taken this one's place, it asks the run to stop.
class Agent {
 public:
  // The monitor must outlive this.
  Agent(AgentOptions options, RunFacts facts, runtime::RunMonitor& monitor, core::Logger& log);
  // Tells once more how far the run has come, within a second, and ends.
  ~Agent();
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;

 private:
  class Connection;
  void run();
  bool sleep_for_ms(std::int64_t milliseconds);
  bool ending();
  bool speak();
  bool register_attempt();
  bool send_heartbeat();
  void obey(int control, std::int64_t number);
  void notice_failure(int code, const std::string& what);
  std::int64_t activity(const runtime::RunSnapshot& snapshot);

  const AgentOptions options_;
  const RunFacts facts_;
  runtime::RunMonitor& monitor_;
  core::Logger& log_;
  std::unique_ptr<Connection> connection_;

  bool registered_ = false;
  bool told_of_failure_ = false;  // of the one that goes on now
  bool disowned_ = false;
  std::int64_t interval_ms_ = 1000;
  std::int64_t written_bytes_ = 0;  // by this process, when it was last looked at
  std::int64_t extra_activity_ = 0;

  std::mutex mutex_;
  std::condition_variable wake_;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace lockstep::coordinator::agent
