#include "runtime/metrics/phase_clock.h"

#include <numeric>
#include <utility>

namespace lockstep::runtime {

namespace {

constexpr std::size_t kManyMarks = 64;

}  // namespace

const char* name_of(Phase phase) {
  switch (phase) {
    case Phase::kData:
      return "data";
    case Phase::kForward:
      return "forward";
    case Phase::kBackward:
      return "backward";
    case Phase::kReduce:
      return "reduce";
    case Phase::kDecide:
      return "decide";
    case Phase::kUpdate:
      return "update";
    case Phase::kGather:
      return "gather";
    case Phase::kOther:
      return "other";
  }
  return "?";
}

double PhaseSeconds::total() const {
  return std::accumulate(seconds_.begin(), seconds_.end(), 0.0);
}

void HostPhaseClock::enter(Phase phase) {
  const Clock::time_point now = Clock::now();
  if (open_) seconds_[phase_] += std::chrono::duration<double>(now - begin_).count();
  begin_ = now;
  phase_ = phase;
  open_ = true;
}

void HostPhaseClock::leave() {
  enter(Phase::kOther);
  open_ = false;
}

PhaseSeconds HostPhaseClock::take() {
  return std::exchange(seconds_, {});
}

void DevicePhaseClock::mark(Phase phase, bool in_phase) {
  if (marks_.size() >= kManyMarks) read_finished();
  core::DeviceEvent event;
  if (free_.empty()) {
    event = core::DeviceEvent(device_);
  } else {
    event = std::move(free_.back());
    free_.pop_back();
  }
  event.record(stream_);
  marks_.push_back({std::move(event), phase, in_phase});
}

void DevicePhaseClock::read_finished() {
  while (marks_.size() > 1 && marks_[1].event.finished()) {
    Mark first = std::move(marks_.front());
    marks_.pop_front();
    if (first.in_phase) seconds_[first.phase] += marks_.front().event.seconds_since(first.event);
    free_.push_back(std::move(first.event));
  }
}

PhaseSeconds DevicePhaseClock::take() {
  read_finished();
  return std::exchange(seconds_, {});
}

}  // namespace lockstep::runtime
