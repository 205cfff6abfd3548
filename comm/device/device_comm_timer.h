#pragma once

#include <cstddef>
#include <deque>
#include <optional>
#include <utility>

#include "comm/comm_times.h"
#include "comm/communicator.h"
#include "comm/device/event_pool.h"
#include "core/device_runtime.h"

namespace lockstep::comm {

// Measures CommTimes of collectives on a device by events on its streams, which make nobody wait.
// Events are used again once they have been read, which beginning a collective does too when many
// are kept, so that nobody needs to take.
class DeviceCommTimer {
 public:
  explicit DeviceCommTimer(core::DeviceRef device) : events_(device) {}

  // A collective begins when `stream` comes here and those begun before it are over.
  void begin(Collective collective, const core::DeviceStream& stream);
  // The first of those that have begun and not ended ends when `stream` comes here. They end in the
  // order in which they have begun.
  void end(const core::DeviceStream& stream);

  // Calls body(), during which the host gives `stream` nothing to do but wait. As far as a
  // collective takes place meanwhile, it is exposed; where several streams stand still, for each.
  template <typename Body>
  void stand_still(const core::DeviceStream& stream, Body&& body) {
    if (moving_.empty()) {
      body();
      return;
    }
    core::DeviceEvent begin = events_.take_recorded(stream);
    body();
    stills_.push_back({std::move(begin), events_.take_recorded(stream)});
  }

  // Of collectives that are over.
  CommTimes take();

 private:
  // A collective that may still be exposed by a time of standing still to come.
  struct Moving {
    std::optional<CommKind> kind;
    core::DeviceEvent begin;
    core::DeviceEvent end;
    bool ended = false;  // `end` has been recorded
    double exposed = 0.0;
  };
  struct Still {
    core::DeviceEvent begin;
    core::DeviceEvent end;
  };

  void settle();
  void expose(const Still& still);
  bool is_over(const Moving& moving) const { return moving.ended && moving.end.finished(); }
  double begin_of(std::size_t index, const core::DeviceEvent& since) const;
  void retire_first();

  EventPool events_;
  std::deque<Moving> moving_;
  std::size_t open_ = 0;  // the last ones of them, that have not ended
  std::deque<Still> stills_;
  std::optional<core::DeviceEvent> last_end_;  // of the collective before the first one that moves
  CommTimes times_;
};

}  // namespace lockstep::comm
