#pragma once

#include <cstdint>
#include <string>
#include <utility>

namespace lockstep::coordinator {

// A moment on the clock of one start of the machine, which nobody can set.
struct BootTime {
  std::string boot{};   // id of that start; empty: not known
  std::int64_t ns = 0;  // since then (CLOCK_MONOTONIC)

  bool operator==(const BootTime&) const = default;
};

// A moment on both clocks: the wall's, for people, and the steady one, for all that is measured.
struct Moment {
  // NOLINTNEXTLINE(google-explicit-constructor): a wall time alone is a moment too.
  Moment(std::int64_t unix_time_ns, BootTime steady_time = {})
      : unix_ns(unix_time_ns), steady(std::move(steady_time)) {}

  std::int64_t unix_ns;
  BootTime steady;
};

// The time from a moment to `now`, also across restarts of the program: whatever was done to the
// wall clock, as long as the machine was not started anew. If it was, or the steady moment is not
// known, by the wall clock, and never negative.
std::int64_t elapsed_ns(const Moment& now, const BootTime& since, std::int64_t since_unix_ns);

// Where the coordinator's parts get the time from, so that tests can set it.
class Clock {
 public:
  virtual ~Clock() = default;
  // Unix nanoseconds; may jump, as the machine's clock may.
  virtual std::int64_t now_ns() const = 0;
  virtual BootTime boot_time() const = 0;
  Moment now() const { return {now_ns(), boot_time()}; }
};

// The machine's clocks.
class SystemClock final : public Clock {
 public:
  SystemClock();
  std::int64_t now_ns() const override;
  BootTime boot_time() const override;

 private:
  const std::string boot_;
};

}  // namespace lockstep::coordinator
