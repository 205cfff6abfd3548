#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "coordinator/engine/engine.h"
#include "core/log.h"

namespace lockstep::coordinator {

// Calls Engine::tick() from a thread of its own until destroyed. What a tick throws is logged, and
// the next one tries again.
class EngineLoop {
 public:
  EngineLoop(Engine& engine, core::Logger& log,
             std::chrono::milliseconds period = std::chrono::milliseconds(100));
  ~EngineLoop();
  EngineLoop(const EngineLoop&) = delete;
  EngineLoop& operator=(const EngineLoop&) = delete;

  void wake();  // tick now: something was changed

 private:
  void run();

  Engine& engine_;
  core::Logger& log_;
  std::chrono::milliseconds period_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;
  bool awake_ = false;
  std::thread thread_;
};

}  // namespace lockstep::coordinator
