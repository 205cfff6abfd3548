#include "runtime/metrics/step_timer.h"

#include <algorithm>

namespace lockstep::runtime {

namespace {

float seconds(std::chrono::nanoseconds time) {
  return std::chrono::duration<float>(time).count();
}

}  // namespace

void StepTimer::count_up_to_now() {
  const Clock::time_point now = Clock::now();
  all_ += now - begin_;
  wait_ += communicator_.waited() - waited_before_;
  begin_ = now;
  waited_before_ = communicator_.waited();
}

void StepTimer::begin_step() {
  phases_->enter(Phase::kOther);
  begin_ = Clock::now();
  waited_before_ = communicator_.waited();
}

void StepTimer::end_step() {
  count_up_to_now();
  phases_->leave();
}

void StepTimer::begin_data() {
  phases_->enter(Phase::kData);
  data_begin_ = Clock::now();
}

void StepTimer::end_data() {
  data_ += Clock::now() - data_begin_;
}

StepTiming StepTimer::take() {
  count_up_to_now();
  const StepTiming timing{seconds(data_),
                          seconds(std::max(all_ - data_ - wait_, std::chrono::nanoseconds(0))),
                          seconds(wait_)};
  all_ = data_ = wait_ = std::chrono::nanoseconds(0);
  return timing;
}

}  // namespace lockstep::runtime
