#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "coordinator/engine/engine.h"
#include "coordinator/server/server_log.h"

namespace lockstep::coordinator {

// Starts the commands of hooks.run_ended whenever a run has ended: one at a time, in the order of the
// ends, each at least once, also when the coordinator was away in between. No shell is involved.
// They get the run in their environment (LOCKSTEP_RUN, LOCKSTEP_RUN_NAME, _STATE, _REASON, _MESSAGE,
// _OUTPUT, _OWNER) and write to DIRECTORY/hooks.log. How they end changes nothing; the log of the
// server tells it.
class HookRunner {
 public:
  // DIRECTORY/hooks.json remembers the last end that was served; before the first time none was.
  HookRunner(Engine& engine, HookPolicy policy, std::filesystem::path directory, ServerLog& log);
  // A command that does not end within a few seconds is killed, and started again by the next one.
  ~HookRunner();
  HookRunner(const HookRunner&) = delete;
  HookRunner& operator=(const HookRunner&) = delete;

 private:
  struct End {
    std::int64_t sequence = 0;
    RunPtr run;
  };
  void run();
  void catch_up();
  bool serve(const End& end);  // false: it was cut short
  bool start(const std::vector<std::string>& command, const Run& run);
  struct Outcome {
    int status = 0;          // as waitpid tells it
    bool late = false;       // its time was over, and it was killed
    bool cut_short = false;  // the coordinator ends, and it was killed
  };
  Outcome wait_for(pid_t child);
  void remember(std::int64_t sequence);

  Engine& engine_;
  const HookPolicy policy_;
  const std::filesystem::path directory_;
  ServerLog& log_;
  std::int64_t served_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<End> ends_;  // guarded by mutex_
  bool stop_ = false;     // guarded by mutex_
  std::int64_t subscription_ = 0;
  std::thread thread_;
};

}  // namespace lockstep::coordinator
