#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/model/clock.h"

// The resources of the coordinator as plain structs: the same names, meanings and enum numbers as
// in proto/lockstep/v1/run.proto. Times are unix nanoseconds in members named *_ns; 0 is "not set".
// They are for people: what is measured goes by the BootTime beside them.
namespace lockstep::coordinator {

enum class RunState : std::uint8_t {
  kWaiting = 1,   // for other runs, or held
  kQueued = 2,    // for slots
  kStarting = 3,  // slots leased, ranks being started
  kRunning = 4,   // every rank has registered
  kStopping = 5,  // the point of no return of an attempt
  kBackoff = 6,   // waits before the next attempt
  kPaused = 7,    // no processes, no slots; resumable
  kSucceeded = 8,
  kFailed = 9,
  kCancelled = 10,
};

// Why the current attempt is to stop. Only ever escalates, in this order.
enum class StopIntent : std::uint8_t {
  kNone = 0,
  kPreempt = 1,
  kHostDrain = 2,
  kPause = 3,
  kTimeLimit = 4,
  kCancel = 5,
};

enum class AttemptState : std::uint8_t {
  kCreated = 1,
  kLaunching = 2,
  kActive = 3,
  kEnding = 4,
  kEnded = 5,
};

enum class FailureCategory : std::uint8_t {
  kUnspecified = 0,
  kDone = 1,
  kStopped = 2,  // on request, resumable
  kConfig = 3,
  kLaunch = 4,
  kDependency = 5,
  kUserExit = 6,
  kRankSignal = 7,
  kOom = 8,
  kNumeric = 9,
  kData = 10,
  kHang = 11,
  kHostLost = 12,
  kCoordinator = 13,
  kTimeLimit = 14,
  kLogQuota = 15,
  kDiskFull = 16,
  kPreempted = 17,
  kCrashLoop = 18,
  kCommunication = 19,
  kInternal = 20,
};

// The names of the protocol: "WAITING", "HOST_DRAIN", "RANK_SIGNAL". parse_* throw Error(kData) for
// any other text.
const char* to_string(RunState state);
const char* to_string(StopIntent intent);
const char* to_string(AttemptState state);
const char* to_string(FailureCategory category);
RunState parse_run_state(std::string_view name);
StopIntent parse_stop_intent(std::string_view name);
AttemptState parse_attempt_state(std::string_view name);
FailureCategory parse_failure_category(std::string_view name);

bool is_terminal(RunState state);  // SUCCEEDED, FAILED, CANCELLED
bool has_attempt(RunState state);  // STARTING, RUNNING, STOPPING: processes may exist

inline constexpr std::int64_t kSecond = 1'000'000'000;  // ns

struct Resources {
  int ranks = 1;                   // one slot each
  int ranks_per_host = 0;          // 0: as many as the host has free slots
  std::vector<std::string> hosts;  // only these; empty: any

  bool operator==(const Resources&) const = default;
};

struct RetryPolicy {
  int max_restarts = 5;  // 0 and below: none
  std::int64_t base_delay_ns = 10 * kSecond;
  std::int64_t max_delay_ns = 600 * kSecond;
  std::vector<int> on_exit_codes;  // also retry these of USER_EXIT

  bool operator==(const RetryPolicy&) const = default;
};

struct Progress {
  std::int64_t step = 0;  // attempts of steps done, as in metrics.jsonl
  std::int64_t total_steps = 0;
  double loss = 0.0;
  double tokens_per_second = 0.0;
  double step_seconds = 0.0;
  std::int64_t eta_time_ns = 0;
  std::int64_t heartbeat_time_ns = 0;

  bool operator==(const Progress&) const = default;
};

struct Placement {
  std::string host;
  std::vector<int> slots;

  bool operator==(const Placement&) const = default;
};

struct RankExit {
  int rank = 0;
  std::string host;
  std::int64_t pid = 0;
  int code = -1;   // -1: ended by a signal, or unknown
  int signal = 0;  // 0: none
  std::string reason;
  std::string message;
  std::int64_t end_time_ns = 0;

  bool operator==(const RankExit&) const = default;
};

// How an attempt ended. The first failing rank is the one whose end came first, not the ones that
// others took down with them.
struct ExitInfo {
  FailureCategory category = FailureCategory::kUnspecified;
  int code = 0;  // of `lockstep train`; 0 to 7
  int signal = 0;
  int failing_rank = -1;  // -1: none
  std::string host;
  std::string message;     // of the first failure
  int launcher_code = 0;   // exit status of mpirun
  bool retryable = false;  // set by the state machine, from category and policy
  std::vector<RankExit> ranks;
  std::int64_t step = 0;  // reached

  bool operator==(const ExitInfo&) const = default;
};

// Names one attempt to everything outside the store. A fence rises with every attempt of the
// server, so a reference with an old one is refused everywhere.
struct AttemptRef {
  std::string run;  // id
  int number = 0;   // from 1
  std::int64_t fence = 0;

  bool operator==(const AttemptRef&) const = default;
};

// One start of a run.
struct Attempt {
  int number = 0;  // from 1
  std::int64_t fence = 0;
  AttemptState state = AttemptState::kCreated;
  std::vector<Placement> placements;
  bool slots_leased = true;  // until it is proved that no process of it is left
  // What `lockstep train --resume` got: "never", "auto" or a checkpoint directory.
  std::string resume;
  std::string resumed_from;      // checkpoint directory; empty: from the start
  std::string agent_token_hash;  // hex sha256 of the secret that its agent shows
  std::int64_t create_time_ns = 0;
  std::int64_t start_time_ns = 0;
  std::int64_t end_time_ns = 0;
  BootTime created_at;
  BootTime started_at;
  BootTime ended_at;
  std::int64_t checkpoint_step = 0;  // of the run's newest verified checkpoint when it ended
  std::optional<ExitInfo> exit;
  std::vector<std::string> stuck;  // of a hang: who waits for whom, one sentence each

  bool operator==(const Attempt&) const = default;
};

// The long texts of a run: written once, shared by all copies of its record.
struct RunTexts {
  std::string config_yaml;      // as submitted
  std::string config_source;    // file name for messages
  std::string resolved_config;  // YAML

  bool operator==(const RunTexts&) const = default;
};

// A request to stop the current attempt, as far as it goes beyond the intent.
struct StopOrder {
  bool force = false;  // no graceful stop: SIGKILL at once
  std::int64_t grace_ns = 30 * kSecond;
  std::string actor;
  std::string reason;

  bool operator==(const StopOrder&) const = default;
};

// A training run: one configuration, trained to its end in one or more attempts.
struct Run {
  std::string id;            // [a-z0-9]{26}, sorts by time of creation
  std::string owner;         // name of the token (or "local") that made it
  std::string display_name;  // never reaches a path or a command line
  std::map<std::string, std::string> labels;
  std::string notes;
  int priority = 0;
  bool hold = false;

  std::map<std::string, std::string> environment;  // of its ranks, beside that of all runs
  std::vector<std::string> overrides;
  std::string config_sha256;              // hex, of resolved_config
  std::string output;                     // run.output of the resolved config
  std::string device_kind;                // of the slots it needs: "cpu", "gpu", or empty: any
  std::shared_ptr<const RunTexts> texts;  // never null in a record of the engine

  Resources resources;
  std::vector<std::string> after;          // ids that must have SUCCEEDED before it is queued
  std::vector<std::string> after_pending;  // those of `after` that have not yet
  std::int64_t time_limit_ns = 0;          // of one attempt, wall time; 0: none
  RetryPolicy retry_policy;

  RunState state = RunState::kWaiting;
  std::string state_reason;  // one word, UPPER_SNAKE
  std::string state_message;
  std::int64_t state_time_ns = 0;
  StopIntent stop_intent = StopIntent::kNone;
  StopOrder stop_order;             // of stop_intent
  std::optional<ExitInfo> failure;  // first cause, known before the attempt has ended: a hang, ...
  bool suspect = false;             // its agent has not been heard of; not a failure
  std::string cleanup_state;        // empty, or what could not be cleaned up

  int current_attempt = 0;    // 0: none yet
  int restart_count = 0;      // attempts that a failure cost
  int budget_used = 0;        // of restart_count, since the budget was last refilled
  int fresh_checkpoints = 0;  // committed since the last restart; enough of them refill the budget
  int hang_count = 0;         // as budget_used, of hangs alone
  int launch_failures = 0;    // in a row
  Progress progress;
  std::int64_t checkpoint_control_id = 0;  // newest control id given out to the agent
  bool checkpoint_wanted = false;          // asked for and not yet seen
  std::int64_t checkpoint_answer_id = 0;   // newest control id that a whole checkpoint came of
  std::int64_t checkpoint_step = 0;
  std::string latest_checkpoint;   // directory; empty: none verified
  std::optional<ExitInfo> result;  // of the last attempt that ended
  std::string parent_run;          // of a retry
  std::string resume_from;         // of the next attempt: "never", "auto" or a directory

  std::int64_t create_time_ns = 0;
  std::int64_t queue_time_ns = 0;
  std::int64_t start_time_ns = 0;  // of the first attempt
  std::int64_t end_time_ns = 0;
  std::int64_t update_time_ns = 0;
  std::int64_t backoff_until_ns = 0;
  BootTime queued_at;
  BootTime backoff_until;
  BootTime ended_at;
  std::int64_t event_sequence = 0;  // of its newest event, over the server
  std::int64_t run_sequence = 0;    // of its newest event, dense, from 1

  bool operator==(const Run&) const = default;
};

// What the store has of a run: the row, and the fold of its events.
struct RunRecord {
  Run run;
  std::vector<Attempt> attempts;  // by number

  const Attempt* current() const;  // nullptr: none yet
  AttemptRef current_ref() const;  // of current(), which there must be

  bool operator==(const RunRecord&) const = default;
};

// Records are immutable once published; a change makes a new one.
using RunPtr = std::shared_ptr<const RunRecord>;

// Changes with every event of the run.
std::string etag_of(const Run& run);

}  // namespace lockstep::coordinator
