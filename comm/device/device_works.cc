#include "comm/device/device_works.h"

#include <algorithm>
#include <utility>

#include "comm/device/device_comm_timer.h"
#include "comm/flight_recorder.h"
#include "core/check.h"

namespace lockstep::comm {

namespace {

// Asking whether something is over costs a call of the runtime, so a few are kept unasked.
constexpr std::size_t kKept = 64;

}  // namespace

std::uint64_t DeviceWorks::add(Work host) {
  Entry entry;
  entry.host = host;
  return push(std::move(entry));
}

std::uint64_t DeviceWorks::add(const core::DeviceStream& stream, std::uint64_t sequence,
                               FlightRecorder* recorder) {
  Entry entry;
  entry.on_device = true;
  entry.stream = stream.handle();
  entry.sequence = sequence;
  entry.recorder = recorder;
  entry.reached = events_.take_recorded(stream);
  return push(std::move(entry));
}

std::uint64_t DeviceWorks::push(Entry entry) {
  if (entries_.size() >= kKept) settle();
  entries_.push_back(std::move(entry));
  return first_ + entries_.size() - 1;
}

bool DeviceWorks::is_over(Entry& entry) {
  if (entry.on_device) return entry.reached.finished();
  return entry.host.done() && entry.host.input_done();
}

void DeviceWorks::settle() {
  while (!entries_.empty() && is_over(entries_.front())) {
    Entry& entry = entries_.front();
    if (entry.recorder != nullptr) entry.recorder->completed(entry.sequence);
    if (entry.on_device) events_.give(std::move(entry.reached));
    entries_.pop_front();
    ++first_;
  }
}

DeviceWorks::Entry* DeviceWorks::find(std::uint64_t id) {
  LOCKSTEP_CHECK_LT(id, first_ + entries_.size(), "work that was never launched");
  return id < first_ ? nullptr : &entries_[id - first_];
}

// Work on the stream of the point is behind it anyway. So is a stream that has got the handle of
// one that was held back: that one was waited for when it was destroyed.
void DeviceWorks::hold_back(std::uint64_t id, const Entry& entry,
                            const core::DeviceStream* present) {
  LOCKSTEP_CHECK(present != nullptr, "a wait without a stream");
  if (present->handle() == entry.stream) return;
  const auto known = std::find_if(held_back_.begin(), held_back_.end(), [&](const HeldBack& h) {
    return h.stream == present->handle() && h.by == entry.stream;
  });
  if (known != held_back_.end() && known->id >= id) return;
  if (timer_ == nullptr) {
    entry.reached.hold_back(*present);
  } else {
    timer_->stand_still(*present, [&] { entry.reached.hold_back(*present); });
  }
  if (known != held_back_.end()) {
    known->id = id;
  } else {
    held_back_.push_back({present->handle(), entry.stream, id});
  }
}

void DeviceWorks::wait_output(std::uint64_t id, const core::DeviceStream* present,
                              Deadline deadline) {
  Entry* entry = find(id);
  if (entry == nullptr) return;
  if (entry->on_device) {
    hold_back(id, *entry, present);
  } else {
    entry->host.wait_output(deadline);
  }
}

void DeviceWorks::wait_input(std::uint64_t id, const core::DeviceStream* present,
                             Deadline deadline) {
  Entry* entry = find(id);
  if (entry == nullptr) return;
  if (entry->on_device) {
    hold_back(id, *entry, present);
  } else {
    entry->host.wait_input(deadline);
  }
}

bool DeviceWorks::done(std::uint64_t id) {
  Entry* entry = find(id);
  if (entry == nullptr) return true;
  return entry->on_device ? entry->reached.finished() : entry->host.done();
}

bool DeviceWorks::input_done(std::uint64_t id) {
  Entry* entry = find(id);
  if (entry == nullptr) return true;
  return entry->on_device ? entry->reached.finished() : entry->host.input_done();
}

}  // namespace lockstep::comm
