#include "coordinator/server/event_ring.h"

#include <algorithm>

namespace lockstep::coordinator {

EventRing::EventRing(Engine& engine, std::size_t most) : engine_(engine), most_(most) {
  subscription_ = engine.subscribe([this](const Notice& notice) {
    if (notice.event == nullptr) return;
    const std::lock_guard lock(mutex_);
    // The first one seen says from where on nothing is missing.
    if (entries_.empty() && complete_after_ == 0) complete_after_ = notice.event->sequence - 1;
    entries_.push_back({*notice.event, notice.run});
    if (entries_.size() > most_) {
      complete_after_ = entries_.front().event.sequence;
      entries_.pop_front();
    }
  });
}

EventRing::~EventRing() {
  engine_.unsubscribe(subscription_);
}

std::optional<std::vector<EventRing::Entry>> EventRing::after(std::int64_t sequence,
                                                              std::size_t limit) const {
  const std::lock_guard lock(mutex_);
  if (entries_.empty() || sequence < complete_after_) return std::nullopt;
  const auto first = std::upper_bound(
      entries_.begin(), entries_.end(), sequence,
      [](std::int64_t value, const Entry& entry) { return value < entry.event.sequence; });
  const auto count =
      std::min<std::size_t>(limit, static_cast<std::size_t>(std::distance(first, entries_.end())));
  return std::vector<Entry>(first, first + static_cast<std::ptrdiff_t>(count));
}

}  // namespace lockstep::coordinator
