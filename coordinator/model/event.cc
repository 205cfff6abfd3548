#include "coordinator/model/event.h"

#include <array>

#include <fmt/format.h>

#include "core/error.h"

namespace lockstep::coordinator {
namespace {

constexpr std::array kNames = {
    "submitted",
    "dependency_satisfied",
    "updated",
    "held",
    "released",
    "queued",
    "attempt_created",
    "launched",
    "ranks_ready",
    "progress_mark",
    "checkpoint_requested",
    "checkpoint_committed",
    "checkpoint_failed",
    "stop_requested",
    "control_acked",
    "stopping",
    "attempt_ended",
    "slots_released",
    "retry_scheduled",
    "paused",
    "resumed",
    "suspect",
    "recovered",
    "coordinator_restarted",
    "cleanup",
    "adopted",
    "terminal",
};
static_assert(kNames.size() == static_cast<std::size_t>(EventKind::kTerminal) + 1);

}  // namespace

const char* to_string(EventKind kind) {
  return kNames[static_cast<std::size_t>(kind)];
}

EventKind parse_event_kind(std::string_view name) {
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (name == kNames[i]) return static_cast<EventKind>(i);
  }
  throw core::Error(core::ErrorKind::kData, fmt::format("'{}' is no kind of event", name));
}

}  // namespace lockstep::coordinator
