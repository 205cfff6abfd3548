#include <fmt/format.h>

#include "coordinator/engine/engine_core.h"
#include "coordinator/model/failpoint.h"
#include "coordinator/model/sha256.h"

// Rank 0 of each attempt: registration, heartbeats, control.
namespace lockstep::coordinator {
namespace {

// The record whose current attempt this is. An old fence may not be told from an unknown attempt.
RunPtr require_current(const EngineCore& core, const AttemptRef& ref) {
  const RunPtr record = core.table.committed(ref.run);
  const Attempt* attempt = record ? record->current() : nullptr;
  if (attempt != nullptr && attempt->number == ref.number && attempt->fence == ref.fence &&
      attempt->state != AttemptState::kEnded) {
    return record;
  }
  throw EngineError(ErrorCode::kFailedPrecondition, "STALE_FENCE",
                    fmt::format("attempt {} of run {} with fence {} is not the one that runs now",
                                ref.number, ref.run, ref.fence));
}

bool equal_hashes(const std::string& a, const std::string& b) {
  if (a.size() != b.size()) return false;
  unsigned int difference = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference |= static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b[i]);
  }
  return difference == 0;
}

}  // namespace

std::optional<AttemptRef> Engine::authenticate_agent(const std::string& secret) const {
  const std::string hash = sha256_hex(secret);
  std::optional<AttemptRef> found;
  for (const RunPtr& record : core_->table.all_committed()) {
    if (!has_attempt(record->run.state)) continue;
    const Attempt& attempt = *record->current();
    if (attempt.state == AttemptState::kEnded) continue;
    if (equal_hashes(hash, attempt.agent_token_hash)) found = record->current_ref();
  }
  return found;
}

void Engine::register_agent(const AgentRegistration& registration) {
  const RunPtr record = require_current(*core_, registration.attempt);
  if (registration.world_size != record->run.resources.ranks) {
    throw EngineError(ErrorCode::kInvalidArgument, "INVALID_FIELD",
                      fmt::format("run {} has {} ranks, and {} have registered", record->run.id,
                                  record->run.resources.ranks, registration.world_size));
  }
  core_->live.registered(registration, core_->moment());
  if (record->run.state != RunState::kStarting) return;
  core_->change_run(record->run.id, [&](RunChange& change) {
    if (change.run().state != RunState::kStarting) return;
    if (change.record().current()->state == AttemptState::kCreated) {
      change.add(EventKind::kLaunched, "agent");
    }
    change.add(
        EventKind::kRanksReady, "agent",
        {{"host", registration.host},
         {"pid", registration.pid},
         {"world_size", registration.world_size},
         {"resumed_step", registration.resumed_step},
         {"total_steps", registration.total_steps},
         {"resumed_from", registration.resumed_step > 0 ? change.run().latest_checkpoint : ""}});
    if (change.run().stop_intent != StopIntent::kNone && !change.run().checkpoint_wanted) {
      add_checkpoint_request(change, "coordinator");
    }
  });
}

BeatAnswer Engine::heartbeat(const Beat& beat) {
  const RunPtr record = require_current(*core_, beat.attempt);
  const Progress progress =
      core_->live.beat(beat, record->run.progress.total_steps, core_->moment());
  core_->table.publish_progress(beat.attempt.run, progress);
  const Run& run = record->run;
  BeatAnswer answer;
  answer.heartbeat_interval_ns = core_->options.heartbeat_interval_ns;
  if (run.state == RunState::kStopping) {
    answer.control = Control::kCheckpointAndExit;
    answer.control_id = run.checkpoint_control_id + 1;
  } else if (run.checkpoint_wanted) {
    answer.control = Control::kCheckpoint;
    answer.control_id = run.checkpoint_control_id;
  }
  return answer;
}

}  // namespace lockstep::coordinator
