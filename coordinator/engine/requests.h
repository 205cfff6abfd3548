#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/model/coordinator_policy.h"
#include "coordinator/model/run.h"

// What goes into the engine and comes out of it, as plain structs; see proto/lockstep/v1 for the
// meaning of members of the same name.
namespace lockstep::coordinator {

// Who asks. The server has found out and checked the scopes; the engine records it.
struct Caller {
  std::string name = "local";  // of the token, or "local"
  std::string peer;            // address, for the audit log
  int max_priority = kMaxPriority;
};

struct CreateRequest {
  std::string display_name;
  std::map<std::string, std::string> labels;
  std::string notes;
  int priority = 0;
  bool hold = false;
  std::map<std::string, std::string> environment;
  std::string config_yaml;
  std::string config_source = "config.yaml";
  std::vector<std::string> overrides;
  Resources resources;
  std::vector<std::string> after;  // ids
  std::int64_t time_limit_ns = 0;
  RetryPolicy retry_policy;
  bool validate_only = false;
  std::string request_id;
};

struct PendingReason {
  std::string reason;  // SLOTS, PRIORITY, DEPENDENCY, HOLD, BACKOFF, HOST_DRAINED, ...
  std::string message;

  bool operator==(const PendingReason&) const = default;
};

struct CreateResult {
  RunPtr run;  // validate_only: what would be stored, without an id
  bool replayed = false;
  std::int64_t memory_bytes_per_rank = 0;
  std::string memory_table;
  std::vector<Placement> placements;           // validate_only; empty: it would wait
  std::vector<PendingReason> pending_reasons;  // validate_only
};

// Only the members that are set are changed.
struct UpdateRequest {
  std::string run;   // id, "runs/ID" or a unique prefix; so in every request
  std::string etag;  // empty: any
  std::optional<std::string> display_name;
  std::optional<std::map<std::string, std::string>> labels;
  std::optional<std::string> notes;
  std::optional<int> priority;
  std::optional<bool> hold;
  std::optional<std::int64_t> time_limit_ns;
  std::string request_id;
};

struct CancelRequest {
  std::string run;
  std::string reason;
  bool force = false;
  std::int64_t grace_ns = 30 * kSecond;
  std::string request_id;
};

struct PauseRequest {
  std::string run;
  std::string reason;
  std::string request_id;
};

struct DeleteRequest {
  std::string run;
  bool archive = false;
  std::string request_id;
};

struct RetryRequest {
  std::string run;
  std::vector<std::string> overrides;
  bool from_start = false;
  std::string request_id;
};

struct FailureReport {
  ExitInfo exit;
  std::string advice;
  std::vector<std::string> stuck;  // sentences of the flight recorders
  bool retry_planned = false;
};

struct Explanation {
  RunPtr run;
  std::vector<PendingReason> reasons;   // in order of weight
  std::vector<std::string> runs_ahead;  // ids, in queue order
  std::int64_t start_estimate_ns = 0;   // 0: unknown
  std::optional<FailureReport> failure;
  std::string summary;
};

struct CheckpointInfo {
  std::int64_t step = 0;
  std::string path;
  bool verified = false;
  bool healthy = false;
  std::string problem;  // why it is not verified
  std::int64_t bytes = 0;
  std::int64_t create_time_ns = 0;
};

// --- agents
// ---------------------------------------------------------------------------------------

struct AgentRegistration {
  AttemptRef attempt;
  int world_size = 0;
  std::string host;
  std::int64_t pid = 0;
  std::int64_t total_steps = 0;
  std::int64_t resumed_step = 0;
};

struct Beat {
  AttemptRef attempt;
  std::int64_t step = 0;
  std::int64_t activity = 0;
  std::uint64_t collective_sequence = 0;
  double loss = 0.0;
  double tokens_per_second = 0.0;
  double step_seconds = 0.0;
  std::int64_t checkpoint_step = 0;
  std::int64_t acked_control_id = 0;
  std::int64_t failed_control_id = 0;
  std::string phase;
};

enum class Control : std::uint8_t { kNone = 0, kCheckpoint = 1, kCheckpointAndExit = 2 };

struct BeatAnswer {
  Control control = Control::kNone;
  std::int64_t control_id = 0;  // rising; the same id is one request
  std::int64_t heartbeat_interval_ns = kSecond;
};

// --- hosts, tokens, store
// -------------------------------------------------------------------------

struct HostSpec {
  std::string name;
  std::string address;       // for mpirun
  std::string kind = "cpu";  // or "gpu"
  int slots = 1;
};

struct SlotInfo {
  int index = 0;
  std::string run;  // id that leases it; empty: free
  int attempt = 0;
  int rank = 0;
};

struct HostInfo {
  HostSpec spec;
  std::vector<SlotInfo> slots;
  bool drained = false;
  std::string drain_reason;
};

struct TokenInfo {
  std::string name;
  std::vector<std::string> scopes;  // of read, submit, operate, admin; sorted
  std::int64_t create_time_ns = 0;
  std::int64_t expire_time_ns = 0;  // 0: never
  bool revoked = false;

  bool operator==(const TokenInfo&) const = default;
};

struct CreateTokenRequest {
  std::string name;
  std::vector<std::string> scopes;
  std::int64_t lifetime_ns = 0;  // 0: never expires
  std::string request_id;
};

struct CreatedToken {
  TokenInfo token;
  std::string secret;  // in this answer and nowhere else
};

struct AuditEvent {
  std::int64_t sequence = 0;
  std::int64_t time_ns = 0;
  std::string actor;
  std::string peer;
  std::string method;
  std::string resource;
  std::string before_json;
  std::string after_json;
  std::string result;  // "OK" or the name of an ErrorCode
  std::string hash;    // hex; sha256 over the one before and this one
};

struct StoreCheck {
  bool ok = true;
  std::vector<std::string> problems;
  std::int64_t runs = 0;
  std::int64_t events = 0;
  std::int64_t audit_events = 0;
};

}  // namespace lockstep::coordinator
