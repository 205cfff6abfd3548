#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/model/run.h"

// What the engine knows of the processes of an attempt. The engine decides; the host of attempts
// starts, watches and ends. Nothing here knows of gRPC, of the store or of states of a run.
namespace lockstep::coordinator {

// Ranks on one host, in the order of ranks: host by host.
struct HostSlots {
  std::string host;        // name in the configuration of the coordinator
  std::string address;     // for mpirun; "localhost", or this machine's own name, is this machine
  std::vector<int> slots;  // one rank each; of a GPU host they are device numbers

  bool operator==(const HostSlots&) const = default;
};

// How much of what the ranks write is kept. A quarter is for stderr, the rest for stdout, in equal
// parts for each rank and the launcher. Of a stream that is longer than its part the first quarter
// and the newest rest are kept.
struct LogLimits {
  std::int64_t bytes = std::int64_t{1} << 30;         // of one attempt, time index included
  std::int64_t free_space = std::int64_t{256} << 20;  // below it on the file system nothing is kept

  bool operator==(const LogLimits&) const = default;
};

// Everything that the start of an attempt needs. All texts are data: they reach argv and the
// environment as they are and no shell ever sees them.
struct LaunchSpec {
  AttemptRef attempt;
  std::string config_file;          // absolute; what `lockstep train` reads
  std::string output;               // run.output, absolute: exit records and flight recorders
  std::string resume = "never";     // never, auto, or a checkpoint directory (absolute)
  std::string device_kind = "cpu";  // of the slots: "cpu" or "gpu"
  std::vector<HostSlots> hosts;
  LogLimits logs;
  std::string agent_address;     // LOCKSTEP_COORDINATOR of the ranks; empty: no agent
  std::string agent_token_file;  // LOCKSTEP_AGENT_TOKEN_FILE of the ranks; mode 0600
  std::map<std::string, std::string> environment;  // of the ranks, beside the fixed list
  int threads_per_rank = 0;  // OMP_NUM_THREADS of the ranks; 0: as in this environment
  // What stands before "train CONFIG --resume ..."; empty: this program itself. For tests.
  std::vector<std::string> program;

  int ranks() const;
  bool operator==(const LaunchSpec&) const = default;
};

enum class AttemptPhase : std::uint8_t {
  kAbsent = 1,    // nothing was ever started, and now nothing will be: launch() did not get so far
  kStarting = 2,  // not every rank's process is there yet
  kRunning = 3,   // every rank's process is there, as far as they are on this machine
  kStopping = 4,  // on the stop ladder, or what is left is being swept
  kEnded = 5,     // proved empty, or given up on (then `cleanup` says of what); `exit` is set
};

// The stop ladder. It only ever goes down, by itself, also while no coordinator runs.
enum class StopRung : std::uint8_t {
  kNone = 0,
  kGraceful = 1,      // asked to save and stop at a step boundary (SIGUSR1, repeated)
  kTerminate = 2,     // SIGTERM to the ranks
  kKill = 3,          // SIGKILL to the ranks
  kEndLauncher = 4,   // SIGTERM to mpirun
  kKillLauncher = 5,  // SIGKILL to mpirun
  kSweep = 6,         // SIGKILL to whatever descends from the attempt or carries its tag
};
const char* to_string(StopRung rung);

struct RankProcess {
  int rank = 0;
  std::int64_t pid = 0;
  bool alive = false;

  bool operator==(const RankProcess&) const = default;
};

struct AttemptStatus {
  AttemptPhase phase = AttemptPhase::kAbsent;
  std::int64_t supervisor_pid = 0;  // 0: not known
  bool supervisor_alive = false;
  std::vector<RankProcess> ranks;  // of this machine, those that were seen; by rank
  StopRung rung = StopRung::kNone;
  ExitInfo exit;                   // kEnded
  std::vector<std::string> stuck;  // of a hang: who waits for whom, one sentence each
  std::string cleanup;             // not empty: processes that could not be ended
  std::int64_t log_bytes = 0;      // written by the ranks
  std::int64_t log_dropped = 0;    // of them, not kept
  std::int64_t start_time_ns = 0;  // of mpirun; 0: not yet
  std::int64_t end_time_ns = 0;    // kEnded
};

// How an attempt is to be stopped. A second request may only go further down the ladder: it starts
// at the rung it asks for, never higher than where the ladder stands.
struct StopRequest {
  bool force = false;                    // SIGKILL at once
  std::int64_t grace_ns = 30 * kSecond;  // for the graceful stop
  // Why, when that is the failure: HANG (who is stuck is found out, and all ranks are examined,
  // before the first signal), TIME_LIMIT, PREEMPTED, ... kUnspecified: asked for; an end with code
  // 7 is then STOPPED.
  FailureCategory cause = FailureCategory::kUnspecified;
  std::string message;  // of `cause`, for ExitInfo::message
};

enum class StopAnswer : std::uint8_t {
  kAccepted = 1,
  kEnded = 2,       // nothing to stop
  kStaleFence = 3,  // the attempt there has another fence; nothing was done
  kNotYet = 4,      // the supervisor cannot be reached just now; ask again
};

// An attempt that has files here.
struct FoundAttempt {
  AttemptRef ref;                  // fence 0: not known
  std::optional<LaunchSpec> spec;  // nothing: launch.json cannot be read
  bool ended = false;
};

// Starts attempts and finds them again. Ranks on other machines are started and ended by mpirun's
// daemons there: they are asked to stop, but not watched, examined or swept, and what they write is
// kept as what the launcher wrote. Every call returns within milliseconds; one caller at a
// time.
class AttemptHost {
 public:
  virtual ~AttemptHost() = default;

  // Starts the supervisor, which starts everything else. The attempt and its fence must be durable
  // before. Throws core::Error(kInternal, kConfig): nothing was started.
  virtual void launch(const LaunchSpec& spec) = 0;

  // The same after a restart of the coordinator as before it. A supervisor that died is found out
  // here; then each call sweeps, until the attempt has ended (category COORDINATOR, or HOST_LOST
  // after a reboot, unless the ranks' own records say how it ended).
  virtual AttemptStatus poll(const AttemptRef& attempt) = 0;

  virtual StopAnswer stop(const AttemptRef& attempt, const StopRequest& request) = 0;

  // The attempts with files here, for the comparison at start; of the runs for which `skip` is true
  // none. One that cannot be read is among them if it lives.
  virtual std::vector<FoundAttempt> find_all(
      const std::function<bool(const std::string&)>& skip) = 0;

  // Takes the files of an attempt of which no process is left out of the way of the next one, and
  // keeps them. Throws core::Error(kInternal).
  virtual void set_aside(const AttemptRef& attempt) = 0;

  // Removes the files of an attempt that has ended. Throws core::Error(kInternal) if it has not.
  virtual void remove(const AttemptRef& attempt) = 0;
};

}  // namespace lockstep::coordinator
