#include "coordinator/model/clock.h"

#include <algorithm>
#include <chrono>
#include <fstream>

namespace lockstep::coordinator {
namespace {

std::string boot_id() {
  std::ifstream in("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(in, id);
  return id;
}

template <typename ChronoClock>
std::int64_t ns_of() {
  const auto since = ChronoClock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(since).count();
}

}  // namespace

std::int64_t elapsed_ns(const Moment& now, const BootTime& since, std::int64_t since_unix_ns) {
  if (!since.boot.empty() && since.boot == now.steady.boot) return now.steady.ns - since.ns;
  return std::max<std::int64_t>(0, now.unix_ns - since_unix_ns);
}

SystemClock::SystemClock() : boot_(boot_id()) {}

std::int64_t SystemClock::now_ns() const {
  return ns_of<std::chrono::system_clock>();
}

BootTime SystemClock::boot_time() const {
  return {boot_, ns_of<std::chrono::steady_clock>()};
}

}  // namespace lockstep::coordinator
