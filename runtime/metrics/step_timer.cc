#include "runtime/metrics/step_timer.h"

#include <algorithm>

namespace lockstep::runtime {

namespace {

float seconds(std::chrono::nanoseconds time) {
  return std::chrono::duration<float>(time).count();
}

}  // namespace

void StepTimer::begin_step() {
  begin_ = Clock::now();
  waited_before_ = communicator_.waited();
}

void StepTimer::end_step() {
  all_ += Clock::now() - begin_;
  wait_ += communicator_.waited() - waited_before_;
}

void StepTimer::begin_data() {
  data_begin_ = Clock::now();
}

void StepTimer::end_data() {
  data_ += Clock::now() - data_begin_;
}

StepTiming StepTimer::take() {
  end_step();
  const StepTiming timing{seconds(data_),
                          seconds(std::max(all_ - data_ - wait_, std::chrono::nanoseconds(0))),
                          seconds(wait_)};
  all_ = data_ = wait_ = std::chrono::nanoseconds(0);
  begin_step();
  return timing;
}

}  // namespace lockstep::runtime
