#include "coordinator/model/clock.h"

#include <chrono>

namespace lockstep::coordinator {

std::int64_t SystemClock::now_ns() const {
  const auto since_epoch = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(since_epoch).count();
}

}  // namespace lockstep::coordinator
