#include "tests/support/device_trace.h"

#include <fmt/format.h>

#include <algorithm>

namespace lockstep::testing {

bool TraceCall::reads_or_writes(const Access& range) const {
  return std::any_of(touches.begin(), touches.end(),
                     [&](const Access& access) { return access.overlaps(range); });
}

bool TraceCall::writes(const Access& range) const {
  return std::any_of(touches.begin(), touches.end(),
                     [&](const Access& access) { return access.writes && access.overlaps(range); });
}

int DeviceTrace::waited_stream(std::size_t wait) const {
  const std::size_t record = calls[wait].recorded;
  return record == TraceCall::kNever ? -1 : calls[record].stream;
}

std::size_t DeviceTrace::waited_work(std::size_t wait) const {
  const int stream = waited_stream(wait);
  if (stream < 0) return calls.size();
  return last_work(calls[wait].recorded, [&](const TraceCall& c) { return c.stream == stream; });
}

std::string DeviceTrace::describe(std::size_t call) const {
  if (call >= calls.size()) return "nothing";
  const TraceCall& c = calls[call];
  std::string what = c.name;
  if (c.kind == CallKind::kKernel) what = fmt::format("{} (kernel {})", c.label, c.name);
  if (c.kind == CallKind::kCollective) what = fmt::format("{} ({})", c.name, c.label);
  return fmt::format("{}, call {} in step {}, stream {}", what, call, c.step, c.stream);
}

std::string DeviceTrace::describe_wait(std::size_t call) const {
  const TraceCall& wait = calls[call];
  const std::size_t held_back =
      next_work(call, [&](const TraceCall& c) { return c.stream == wait.stream; });
  return fmt::format("the wait of call {} in step {} (of {} for {})", call, wait.step,
                     describe(held_back), describe(waited_work(call)));
}

}  // namespace lockstep::testing
