#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <vector>

#include "core/device_runtime.h"

namespace lockstep::runtime {

// What a rank does in a step. Every moment of a step belongs to one phase: from one mark to the
// next.
enum class Phase : std::uint8_t {
  kData,      // the tokens of a micro-batch, up to where the model can read them
  kForward,   // the model and its loss; what is left of the all-gather of parameters
  kBackward,  // the model; checking and launching the reduction of each bucket
  kReduce,    // what backward did not hide of the reductions
  kDecide,    // norm of the gradient, reports, decision, hashes of parameters
  kUpdate,    // the optimizer
  kGather,    // launching the all-gather of parameters
  kOther,     // ledger, metrics, log
};
inline constexpr int kPhases = 8;
const char* name_of(Phase phase);  // "data", "forward", ...

// Seconds by phase.
class PhaseSeconds {
 public:
  double& operator[](Phase phase) { return seconds_[static_cast<std::size_t>(phase)]; }
  double operator[](Phase phase) const { return seconds_[static_cast<std::size_t>(phase)]; }
  double total() const;

 private:
  std::array<double, kPhases> seconds_{};
};

// Takes the marks between phases.
class PhaseClock {
 public:
  virtual ~PhaseClock() = default;

  virtual void enter(Phase phase) = 0;  // the phase before, if any, ends here
  virtual void leave() = 0;             // it ends here, and no other begins

  // What has ended since the last call, and has been done. On a device phases may end later than
  // they are issued: what is still under way is left for the next call. A phase that is open counts
  // up to its last mark only, so nothing of it.
  virtual PhaseSeconds take() = 0;
};

// Reads a clock of the host: for ops that are done when their call returns.
class HostPhaseClock : public PhaseClock {
 public:
  void enter(Phase phase) override;
  void leave() override;
  PhaseSeconds take() override;

 private:
  using Clock = std::chrono::steady_clock;

  PhaseSeconds seconds_;
  Clock::time_point begin_;
  Phase phase_ = Phase::kOther;
  bool open_ = false;
};

// Records an event of the device on its stream at each mark: what is counted is when the stream
// came there, idle time included. Nothing waits; events are used again once they have been read,
// which marking does too when many are kept, so that nobody needs to take.
class DevicePhaseClock : public PhaseClock {
 public:
  // The stream must outlive it.
  DevicePhaseClock(core::DeviceRef device, const core::DeviceStream& stream)
      : device_(device), stream_(stream) {}

  void enter(Phase phase) override { mark(phase, true); }
  void leave() override { mark(Phase::kOther, false); }
  PhaseSeconds take() override;

 private:
  struct Mark {
    core::DeviceEvent event;
    Phase phase;    // that begins here
    bool in_phase;  // false: none does
  };

  void mark(Phase phase, bool in_phase);
  void read_finished();

  core::DeviceRef device_;
  const core::DeviceStream& stream_;
  std::deque<Mark> marks_;               // in the order of the stream; the last one has no end yet
  std::vector<core::DeviceEvent> free_;  // read, to be recorded again
  PhaseSeconds seconds_;
};

}  // namespace lockstep::runtime
