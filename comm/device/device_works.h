#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "comm/work.h"
#include "core/device_runtime.h"

namespace lockstep::comm {

// What the ids of Work stand for where collectives on the device never make the host wait: a
// collective of the host communicator, or a point in a stream at which both conditions of Work
// hold.
class DeviceWorks {
 public:
  explicit DeviceWorks(core::DeviceRef device) : device_(device) {}

  std::uint64_t add(Work host);
  // The point that `stream` has come to now.
  std::uint64_t add(const core::DeviceStream& stream);

  // present: the stream that shall wait for a point; null while there is none, which only
  // collectives of the host bear.
  void wait_output(std::uint64_t id, const core::DeviceStream* present, Deadline deadline);
  void wait_input(std::uint64_t id, const core::DeviceStream* present, Deadline deadline);
  bool done(std::uint64_t id);
  bool input_done(std::uint64_t id);

 private:
  struct Entry {
    Work host;
    bool on_device = false;
    core::DeviceEvent reached;
    core::DeviceStreamHandle* stream = nullptr;  // that the point lies on
  };

  Entry* find(std::uint64_t id);  // null: over, and forgotten
  void hold_back(const Entry& entry, const core::DeviceStream* present) const;
  std::uint64_t push(Entry entry);
  bool is_over(Entry& entry);
  void forget_what_is_over();

  core::DeviceRef device_;
  std::deque<Entry> entries_;
  std::uint64_t first_ = 0;               // the id of entries_.front()
  std::vector<core::DeviceEvent> spare_;  // events to use again
};

}  // namespace lockstep::comm
