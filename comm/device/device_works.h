#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "comm/device/event_pool.h"
#include "comm/work.h"
#include "core/device_runtime.h"

namespace lockstep::comm {

class DeviceCommTimer;
class FlightRecorder;

// What the ids of Work stand for where collectives on the device never make the host wait: a
// collective of the host communicator, or a point in a stream at which both conditions of Work
// hold.
class DeviceWorks {
 public:
  explicit DeviceWorks(core::DeviceRef device) : events_(device) {}

  std::uint64_t add(Work host);
  // The point that `stream` has come to now. recorder, where not null, is told that collective
  // `sequence` is completed when a later call finds it over.
  std::uint64_t add(const core::DeviceStream& stream, std::uint64_t sequence,
                    FlightRecorder* recorder);
  // Forgets what is over, as add() does now and then.
  void settle();

  // Measures with `timer` (null: not at all) how long streams wait for points.
  void time_with(DeviceCommTimer* timer) { timer_ = timer; }

  // present: the stream that shall wait for a point; null while there is none, which only
  // collectives of the host bear. A stream is held back once by a point and never by an earlier one
  // of the same stream, which it is behind by then.
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
    std::uint64_t sequence = 0;
    FlightRecorder* recorder = nullptr;
  };

  // How far one stream has been held back by another: up to the point of this work.
  struct HeldBack {
    core::DeviceStreamHandle* stream;
    core::DeviceStreamHandle* by;
    std::uint64_t id;
  };

  Entry* find(std::uint64_t id);  // null: over, and forgotten
  void hold_back(std::uint64_t id, const Entry& entry, const core::DeviceStream* present);
  std::uint64_t push(Entry entry);
  bool is_over(Entry& entry);

  EventPool events_;
  std::vector<HeldBack> held_back_;  // one for each pair of streams: few
  std::deque<Entry> entries_;
  DeviceCommTimer* timer_ = nullptr;
  std::uint64_t first_ = 0;  // the id of entries_.front()
};

}  // namespace lockstep::comm
