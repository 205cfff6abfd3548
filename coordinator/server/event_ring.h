#pragma once

#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <vector>

#include "coordinator/engine/engine.h"

namespace lockstep::coordinator {

// The newest events with the run as it was after each, so that streams need not ask the store.
// Bounded; who is further behind reads the store. Thread-safe.
class EventRing {
 public:
  struct Entry {
    Event event;
    RunPtr run;  // after the event
  };

  explicit EventRing(Engine& engine, std::size_t most = 2048);
  ~EventRing();
  EventRing(const EventRing&) = delete;
  EventRing& operator=(const EventRing&) = delete;

  // The next events after `sequence`, at most `limit`; nothing if some of them are no longer here.
  std::optional<std::vector<Entry>> after(std::int64_t sequence, std::size_t limit) const;

 private:
  Engine& engine_;
  const std::size_t most_;
  mutable std::mutex mutex_;
  std::deque<Entry> entries_;        // guarded by mutex_
  std::int64_t complete_after_ = 0;  // guarded by mutex_; every later event is in entries_
  std::int64_t subscription_ = 0;
};

}  // namespace lockstep::coordinator
