#include "coordinator/engine/engine_loop.h"

namespace lockstep::coordinator {

EngineLoop::EngineLoop(Engine& engine, core::Logger& log, std::chrono::milliseconds period)
    : engine_(engine), log_(log), period_(period), thread_([this] { run(); }) {}

EngineLoop::~EngineLoop() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void EngineLoop::wake() {
  {
    const std::lock_guard lock(mutex_);
    awake_ = true;
  }
  changed_.notify_all();
}

void EngineLoop::run() {
  std::string told;  // an error that goes on is told once
  std::unique_lock lock(mutex_);
  while (!stop_) {
    awake_ = false;
    lock.unlock();
    try {
      engine_.tick();
      told.clear();
    } catch (const std::exception& error) {
      if (told != error.what()) log_.error("engine", "{}", error.what());
      told = error.what();
    }
    lock.lock();
    changed_.wait_for(lock, period_, [this] { return stop_ || awake_; });
  }
}

}  // namespace lockstep::coordinator
