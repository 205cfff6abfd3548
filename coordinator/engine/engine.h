#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/engine/engine_error.h"
#include "coordinator/engine/requests.h"
#include "coordinator/model/clock.h"
#include "coordinator/model/coordinator_policy.h"
#include "coordinator/model/event.h"
#include "coordinator/model/run.h"

namespace lockstep::core {
class Logger;
}

namespace lockstep::coordinator {

class AttemptHost;  // attempts/attempt_host.h
class Checkpoints;  // engine/checkpoints.h
class Store;        // store/store.h
struct EngineCore;

struct EngineOptions {
  std::string state_directory;  // absolute; config and token files of runs go below runs/ID
  std::vector<HostSpec> hosts;
  std::string agent_address;  // what the agents of rank 0 connect to
  std::int64_t heartbeat_interval_ns = kSecond;
  std::int64_t suspect_after_ns = 10 * kSecond;         // without a heartbeat
  std::int64_t start_deadline_ns = 300 * kSecond;       // from launch to every rank registered
  std::int64_t checkpoint_deadline_ns = 600 * kSecond;  // of one that was asked for
  std::int64_t hang_floor_ns = 30 * kSecond;  // a hang is max(this, hang_steps median steps)
  // The same before the first step, when there is no median and much may have to be loaded.
  std::int64_t first_step_ns = 600 * kSecond;
  int hang_steps = 10;
  int max_queued = 10'000;                         // runs that have not ended; more are refused
  int max_queued_per_caller = 10'000;              // of them, made by one caller
  std::int64_t log_bytes = std::int64_t{1} << 30;  // kept of one run
  bool check_data = false;  // refuse runs whose data files this machine does not have
  EnvironmentPolicy environment;
  RetentionPolicy retention;
  // Before "train ..." in the ranks; empty: this program. Tests only, never from a request.
  std::vector<std::string> program;
  bool verify_in_tick = false;  // look at checkpoints inside tick() instead of on a thread. Tests
  std::uint64_t seed = 0;       // of jitter and ids; 0: from the system
};

// What changed. `event` is nullptr when only live progress did. Events come in order of sequence.
struct Notice {
  const Event* event = nullptr;
  RunPtr run;  // after the event
};
using Listener = std::function<void(const Notice&)>;

// The coordinator without a network: requests, time and what happens to attempts become events.
//
// Every change is decided by the pure functions of model/, committed by the store (events, row,
// request id and audit record in one transaction, forced to disk) and only then seen by anybody.
// An error means that nothing was changed. Thread-safe; reads see the newest committed state and
// never wait for the disk. All errors are EngineError.
//
// A run is named by its id, by "runs/ID", by its display_name if no other run (that has not ended) has
// it, or by a prefix of an id that is unique.
class Engine {
 public:
  // Loads the store, finds running attempts again and goes on where the last coordinator stopped.
  // All references must outlive the engine. Throws core::Error(kConfig) as require_hosts does.
  Engine(Store& store, AttemptHost& attempts, Checkpoints& checkpoints, const Clock& clock,
         core::Logger& log, EngineOptions options);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // --- runs: reads -------------------------------------------------------------------------------
  RunPtr find(const std::string& name) const;  // NOT_FOUND
  std::vector<RunPtr> list() const;            // by id: oldest first
  // Events after `after_sequence`, oldest first; of one run (an id) or, empty, of all.
  std::vector<Event> events(const std::string& run, std::int64_t after_sequence, int limit) const;
  std::int64_t newest_sequence() const;
  // Events up to this one may have been deleted with their runs.
  std::int64_t forgotten_sequence() const;
  Explanation explain(const std::string& name) const;
  // Of run.output, newest first. verify: compares all hashes, slow for large ones.
  std::vector<CheckpointInfo> list_checkpoints(const std::string& name, bool verify) const;
  // Ids of runs whose part of the store is corrupt, with what is wrong. They are not in list().
  std::vector<PendingReason> quarantined() const;
  // Attempts with files here of which the store knows nothing and that could not be adopted, by id
  // of their run.
  std::vector<PendingReason> unknown_attempts() const;

  // --- runs: verbs -------------------------------------------------------------------------------
  // request_id: a UUID, or empty. The same one of the same caller again is answered with the run
  // that the first call made or changed, as it is now.
  CreateResult create(const CreateRequest& request, const Caller& caller);
  RunPtr update(const UpdateRequest& request, const Caller& caller);
  RunPtr cancel(const CancelRequest& request, const Caller& caller);
  RunPtr pause(const PauseRequest& request, const Caller& caller);
  RunPtr resume(const std::string& run, const std::string& request_id, const Caller& caller);
  // Asks for a checkpoint at the next step boundary. It is there when run.checkpoint_wanted is
  // false again: run.checkpoint_step then tells which, or has not moved (it failed).
  RunPtr checkpoint(const std::string& run, const std::string& request_id, const Caller& caller);
  RunPtr retry(const RetryRequest& request, const Caller& caller);
  // Forgets an ended run and what is here of it; of an archived one, where that lies now.
  std::string delete_run(const DeleteRequest& request, const Caller& caller);

  // --- agents ------------------------------------------------------------------------------------
  // The attempt that an agent's secret belongs to, if it has not ended.
  std::optional<AttemptRef> authenticate_agent(const std::string& secret) const;
  // FAILED_PRECONDITION STALE_FENCE, changing nothing, when the attempt is not the current one.
  void register_agent(const AgentRegistration& registration);
  BeatAnswer heartbeat(const Beat& beat);  // never waits for the disk

  // --- hosts -------------------------------------------------------------------------------------
  std::vector<HostInfo> hosts() const;
  // stop_runs: what runs there is checkpointed, stopped and queued again.
  HostInfo drain(const std::string& host, const std::string& reason, bool stop_runs,
                 const std::string& request_id, const Caller& caller);
  // Throws core::Error(kConfig) if leased slots are on none of these hosts.
  void require_hosts(const std::vector<HostSpec>& hosts) const;
  HostInfo undrain(const std::string& host, const std::string& request_id, const Caller& caller);

  // --- tokens ------------------------------------------------------------------------------------
  CreatedToken create_token(const CreateTokenRequest& request, const Caller& caller);
  std::vector<TokenInfo> tokens() const;
  TokenInfo revoke_token(const std::string& name, const std::string& request_id,
                         const Caller& caller);
  // The token of this secret if it is neither revoked nor expired. In constant time; from memory.
  std::optional<TokenInfo> authenticate(const std::string& secret) const;
  // Rises with every revocation: a long call asks again when it has changed.
  std::int64_t token_generation() const;

  // --- store -------------------------------------------------------------------------------------
  std::vector<AuditEvent> audit_events(std::int64_t after_sequence, int limit) const;
  // Records a call that the server itself refused.
  void record_refusal(const Caller& caller, const std::string& method, const std::string& resource,
                      ErrorCode code);
  StoreCheck check_store() const;
  std::int64_t backup(const std::string& path, const Caller& caller);  // bytes
  int schema_version() const;
  // Takes up a run whose attempt has files here but which the store does not know: from its record
  // or, without a whole one, from what was launched. NOT_FOUND, CANNOT_ADOPT.
  RunPtr adopt(const std::string& run, const std::string& request_id, const Caller& caller);
  // Ends an unknown attempt (with a checkpoint, unless `force`) and puts its files aside.
  void end_unknown(const std::string& run, bool force, const std::string& request_id,
                   const Caller& caller);
  // False while the store cannot be written (disk full, ...): changes are refused, what runs goes
  // on, and it heals by itself.
  bool store_healthy() const;

  // --- time and changes --------------------------------------------------------------------------
  // Does what is due: timers, ends of attempts, hangs, starts. Call often (100 ms), from one
  // thread.
  void tick();

  // Called after each commit and after progress, by the thread that made it; must return at once
  // and not call the engine. Once unsubscribe() has returned it is not called any more.
  std::int64_t subscribe(Listener listener);
  void unsubscribe(std::int64_t id);
  // Waits until an event after `sequence` is committed or the time (steady, ns) is over; the newest
  // sequence.
  std::int64_t wait_for_change(std::int64_t sequence, std::int64_t timeout_ns) const;

 private:
  std::unique_ptr<EngineCore> core_;
};

}  // namespace lockstep::coordinator
