#pragma once

#include <chrono>

#include "comm/communicator.h"
#include "runtime/step/step_timing.h"

namespace lockstep::runtime {

// Measures StepTiming on one rank. What is taken covers the time since the last take(): from one
// step's report to the next one's, so the update after a report counts in the next. Time outside
// begin_step() ... end_step() (validation, saving) counts nowhere.
class StepTimer {
 public:
  explicit StepTimer(const comm::Communicator& communicator) : communicator_(communicator) {}

  void begin_step();
  void end_step();
  void begin_data();
  void end_data();
  StepTiming take();  // between begin_step() and end_step()

 private:
  using Clock = std::chrono::steady_clock;

  const comm::Communicator& communicator_;
  Clock::time_point begin_;
  Clock::time_point data_begin_;
  std::chrono::nanoseconds waited_before_{0};
  std::chrono::nanoseconds all_{0};
  std::chrono::nanoseconds data_{0};
  std::chrono::nanoseconds wait_{0};
};

}  // namespace lockstep::runtime
