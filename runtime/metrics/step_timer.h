#pragma once

#include <chrono>
#include <memory>

#include "comm/communicator.h"
#include "core/device_runtime.h"
#include "runtime/metrics/phase_clock.h"
#include "runtime/step/step_timing.h"

namespace lockstep::runtime {

// Measures StepTiming on one rank, and the phases of its steps. What is taken covers the time since
// the last take(): from one step's report to the next one's, so the update after a report counts in
// the next. Time outside begin_step() ... end_step() (validation, saving) counts nowhere.
class StepTimer {
 public:
  explicit StepTimer(const comm::Communicator& communicator)
      : communicator_(communicator), phases_(std::make_unique<HostPhaseClock>()) {}

  // From now on phases are told apart by events on this stream, where the work of the step runs; it
  // must outlive the timer. Before the first step.
  void time_phases_on(core::DeviceRef device, const core::DeviceStream& stream) {
    phases_ = std::make_unique<DevicePhaseClock>(device, stream);
  }

  void begin_step();  // begins with Phase::kOther
  void end_step();
  void begin_data();  // begins Phase::kData
  void end_data();
  StepTiming take();  // between begin_step() and end_step()

  // What follows is of this phase; between begin_step() and end_step().
  void phase(Phase phase) { phases_->enter(phase); }
  // The phases that have ended since the last call of it, and whose work is done.
  PhaseSeconds take_phases() { return phases_->take(); }

 private:
  using Clock = std::chrono::steady_clock;

  void count_up_to_now();

  const comm::Communicator& communicator_;
  std::unique_ptr<PhaseClock> phases_;
  Clock::time_point begin_;
  Clock::time_point data_begin_;
  std::chrono::nanoseconds waited_before_{0};
  std::chrono::nanoseconds all_{0};
  std::chrono::nanoseconds data_{0};
  std::chrono::nanoseconds wait_{0};
};

}  // namespace lockstep::runtime
