#pragma once

#include <utility>
#include <vector>

#include "core/device_runtime.h"

namespace lockstep::comm {

// Events to use again: making one costs more than recording it.
class EventPool {
 public:
  explicit EventPool(core::DeviceRef device) : device_(device) {}

  core::DeviceEvent take() {
    if (spare_.empty()) return core::DeviceEvent(device_);
    core::DeviceEvent event = std::move(spare_.back());
    spare_.pop_back();
    return event;
  }
  core::DeviceEvent take_recorded(const core::DeviceStream& stream) {
    core::DeviceEvent event = take();
    event.record(stream);
    return event;
  }
  void give(core::DeviceEvent&& event) { spare_.push_back(std::move(event)); }

 private:
  core::DeviceRef device_;
  std::vector<core::DeviceEvent> spare_;
};

}  // namespace lockstep::comm
