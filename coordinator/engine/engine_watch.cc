#include <chrono>

#include "coordinator/engine/attempt_watcher.h"

// Which attempts a tick looks at.
namespace lockstep::coordinator {

bool Verification::ready() const {
  return result.wait_for(std::chrono::seconds(0)) != std::future_status::timeout;
}

void EngineCore::watch_attempt(const RunPtr& record) {
  const AttemptRef ref = record->current_ref();
  AttemptWatch& watch = watches[ref.run];
  if (watch.ref != ref) {
    watch = AttemptWatch{};
    watch.ref = ref;
    watch.verified_step = record->run.checkpoint_step;
  }
  AttemptWatcher(*this, watch, record).run();
}

void EngineCore::launch_attempt(const RunPtr& record) {
  AttemptWatch& watch = watches[record->run.id];
  watch = AttemptWatch{};
  watch.ref = record->current_ref();
  watch.verified_step = record->run.checkpoint_step;
  AttemptWatcher(*this, watch, record).launch();
}

void EngineCore::watch_attempts(const std::vector<RunPtr>& runs) {
  for (const RunPtr& record : runs) {
    if (!has_attempt(record->run.state)) {
      watches.erase(record->run.id);
      continue;
    }
    try {
      watch_attempt(record);
    } catch (const EngineError& error) {
      throw;  // the store: nothing else can be committed either
    } catch (const std::exception& error) {
      log.error("engine", "run {}: {}", record->run.id, error.what());
    }
  }
}

}  // namespace lockstep::coordinator
