#pragma once

#include <cstdint>

namespace lockstep::coordinator {

// Where the coordinator's parts get the time from, so that tests can set it.
class Clock {
 public:
  virtual ~Clock() = default;
  // Unix nanoseconds; may jump, as the machine's clock may.
  virtual std::int64_t now_ns() const = 0;
};

// The machine's clock.
class SystemClock final : public Clock {
 public:
  std::int64_t now_ns() const override;
};

}  // namespace lockstep::coordinator
