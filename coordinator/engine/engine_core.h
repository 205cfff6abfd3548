#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <future>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "coordinator/attempts/attempt_host.h"
#include "coordinator/engine/checkpoints.h"
#include "coordinator/engine/engine.h"
#include "coordinator/engine/live_attempts.h"
#include "coordinator/engine/run_ids.h"
#include "coordinator/engine/run_table.h"
#include "coordinator/model/run_change.h"
#include "coordinator/schedule/scheduler.h"
#include "coordinator/store/store.h"
#include "core/log.h"

// The inside of Engine. Locks, always taken in this order: tick_mutex (what only the tick does, and
// every call of AttemptHost), write_mutex (deciding and committing), then those inside of tables.
namespace lockstep::coordinator {

// A checkpoint being looked at on a thread of its own, since that reads all of its files.
struct Verification {
  std::int64_t step = 0;  // 0: the newest whole one, whichever
  std::shared_future<std::optional<CheckpointInfo>> result;

  bool ready() const;
};

// What the tick keeps of an attempt between two calls. Lost with the coordinator: all of it is
// found again, or asked again.
struct AttemptWatch {
  AttemptRef ref;
  bool launched_here = false;
  std::optional<StopRequest> stop_sent;
  std::optional<Verification> verification;        // of a step that the agent told of
  std::int64_t verified_step = 0;                  // newest one looked at, whatever came out
  std::optional<Verification> final_verification;  // after the end
  std::int64_t recorded_ack = 0;
};

// An attempt with files here of which the store knows nothing, and which could not be adopted: its
// slots and its output are taken as long as it lives, and nobody ends it but a person.
struct UnknownAttempt {
  FoundAttempt found;
  std::string problem;              // why it could not be adopted
  std::optional<StopRequest> stop;  // a person has asked for its end
};

// A call that changes something, for the audit log and for being served once.
struct Call {
  std::string method;
  Caller caller;
  std::string request_id;
  std::string digest;  // of the arguments
};

struct EngineCore {
  EngineCore(Store& store_, AttemptHost& attempts_, Checkpoints& checkpoints_, const Clock& clock_,
             core::Logger& log_, EngineOptions options_);

  Store& store;
  AttemptHost& attempts;
  Checkpoints& checkpoints;
  const Clock& clock;
  core::Logger& log;
  const EngineOptions options;
  const std::int64_t began_ns = clock.boot_time().ns;  // this coordinator, on the steady clock

  RunTable table;
  LiveAttempts live;
  std::vector<QuarantinedRun> quarantined;

  std::mutex write_mutex;
  std::int64_t fence = 0;
  RunIds ids;
  std::map<std::string, std::string> canonical_outputs;  // symbolic links resolved, once each
  std::mt19937_64 random;
  std::atomic<bool> healthy = true;
  std::atomic<bool> schedule_due = true;

  mutable std::mutex token_mutex;
  std::map<std::string, TokenRow> tokens;  // by name
  std::atomic<std::int64_t> token_generation = 0;

  mutable std::mutex host_mutex;
  std::map<std::string, HostRow> host_rows;  // by name; drained or once drained

  mutable std::mutex unknown_mutex;
  std::map<std::string, UnknownAttempt> unknown;  // by run

  std::mutex tick_mutex;
  std::map<std::string, AttemptWatch> watches;  // by run
  std::vector<AttemptRef> orphans;              // that have ended, to the store, and still live
  std::int64_t next_probe_ns = 0;               // steady, as are the next ones
  std::int64_t next_schedule_ns = 0;
  std::int64_t next_retention_ns = 0;
  std::int64_t next_requests_ns = 0;
  // Of a run: the numbers up to which files and logs of its attempts are known to be gone.
  struct Pruned {
    int attempts = 0;
    int logs = 0;
  };
  std::map<std::string, Pruned> pruned;
  std::future<void> sweep;  // of files that nobody needs any more

  std::int64_t now() const { return clock.now_ns(); }  // for people
  Moment moment() const { return clock.now(); }
  std::int64_t steady() const { return clock.boot_time().ns; }
  // What is left of the pause before the next attempt; never more than the policy allows, whatever
  // the clocks say.
  std::int64_t backoff_left_ns(const Run& run, const Moment& now) const;
  double jitter();  // in [-1, 1]; write_mutex is held

  // --- committing (engine_commit.cc); write_mutex is held ----------------------------------------
  // Throws EngineError (DISK_FULL, STORE_ERROR): nothing was changed.
  void store_write(StoreWrite& write);
  // All changes and the rest of `write` in one transaction, then publishes. Empty ones are left
  // out.
  std::vector<RunPtr> commit(std::vector<RunChange>& changes, StoreWrite write = {});
  RunPtr commit(RunChange change, StoreWrite write = {});
  // Decides on a run as it is now; without a call, for what the coordinator itself does.
  RunPtr change_run(const std::string& id, const std::function<void(RunChange&)>& decide);
  // The run that an earlier call with this id has served. Throws if that was another call.
  std::optional<std::string> served_before(const Call& call) const;
  // The request and audit records of a call.
  StoreWrite records_of(const Call& call, const std::string& resource, const std::string& before,
                        const std::string& after);
  void record_refusal(const Call& call, const std::string& resource, const EngineError& error);
  // Runs a verb: once per request id, with its records, refusals recorded.
  RunPtr verb(const Call& call, const std::string& name,
              const std::function<void(RunChange&)>& decide);

  // --- deciding (several files) ------------------------------------------------------------------
  const std::string& canonical_output(const std::string& output);  // write_mutex is held
  void start_up();
  void run_tick();
  void watch_attempts(const std::vector<RunPtr>& runs);
  void watch_attempt(const RunPtr& record);
  void launch_attempt(const RunPtr& record);  // that was just committed
  void queue_what_is_due(const std::vector<RunPtr>& runs);
  void schedule_starts();
  void stop_orphans();
  // engine_recovery.cc: what has files here and is not in the store.
  void find_attempts();
  void watch_unknown();
  bool is_blocked(const std::string& run) const;  // by an unknown attempt of its own
  // Adopts the run as its record has it; throws EngineError(CANNOT_ADOPT). write_mutex is held.
  RunPtr adopt(const RunRecord& found, const std::string& actor, StoreWrite write);
  // engine_retention.cc
  void retain(const std::vector<RunPtr>& runs);
  void prune_attempts(const std::vector<RunPtr>& runs);
  bool prune(const std::string& run, const Attempt& attempt, bool whole);
  // Their files go to this place (attempt_files.h). write_mutex is held.
  void delete_runs(const std::vector<std::string>& runs, const char* place, StoreWrite write);
  void sweep_trash();
  void finish_deletions();
  void require_hosts(const std::vector<HostSpec>& hosts) const;
  Cluster cluster() const;
  std::vector<Lease> leases(const std::vector<RunPtr>& runs, const Moment& now) const;
  std::vector<QueuedRun> queued_runs(const std::vector<RunPtr>& runs, const Moment& now) const;
  Plan current_plan() const;
};

// Adds the request to stop, and what must come with it: a checkpoint first for those that free the
// slots, the point of no return for the others.
void add_stop_request(RunChange& change, StopIntent intent, const std::string& actor,
                      const StopOrder& order);
void add_checkpoint_request(RunChange& change, const std::string& actor);

// "attempt 3 of run X is not in the store, and ...; ..."
std::string describe_unknown(const UnknownAttempt& attempt);

// The part of a run that audit records show before and after.
std::string audit_view(const Run& run);

// {"method", arguments} as hex sha256.
std::string digest_of(const nlohmann::json& arguments);

}  // namespace lockstep::coordinator
