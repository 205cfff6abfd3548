#include "comm/device/device_comm_timer.h"

#include <algorithm>
#include <utility>

#include "core/check.h"

namespace lockstep::comm {

namespace {

constexpr std::size_t kMany = 64;

}  // namespace

void DeviceCommTimer::begin(Collective collective, const core::DeviceStream& stream) {
  if (moving_.size() + stills_.size() >= kMany) settle();
  Moving moving;
  moving.kind = kind_of(collective);
  moving.begin = events_.take_recorded(stream);
  moving_.push_back(std::move(moving));
  ++open_;
}

void DeviceCommTimer::end(const core::DeviceStream& stream) {
  LOCKSTEP_CHECK(open_ > 0, "the end of a collective that has not begun");
  Moving& moving = moving_[moving_.size() - open_];
  moving.end = events_.take_recorded(stream);
  moving.ended = true;
  --open_;
}

CommTimes DeviceCommTimer::take() {
  settle();
  return std::exchange(times_, {});
}

// Whoever stands still later than now meets nothing that is over by now.
void DeviceCommTimer::settle() {
  while (!stills_.empty() && stills_.front().end.finished()) {
    Still still = std::move(stills_.front());
    stills_.pop_front();
    expose(still);
    events_.give(std::move(still.begin));
    events_.give(std::move(still.end));
  }
  while (stills_.empty() && !moving_.empty() && is_over(moving_.front()))
    retire_first();
}

// Seconds, relative to the beginning of standing still, which the events lie close to.
void DeviceCommTimer::expose(const Still& still) {
  const double length = still.end.seconds_since(still.begin);
  std::size_t over = 0;  // as many of the first ones end before standing still does
  for (; over < moving_.size(); ++over) {
    Moving& moving = moving_[over];
    if (!moving.begin.finished()) break;
    const double begin = begin_of(over, still.begin);
    const bool ended = is_over(moving);
    const double end = ended ? moving.end.seconds_since(still.begin) : length;
    moving.exposed += std::max(0.0, std::min(end, length) - std::max(begin, 0.0));
    if (!ended || end > length) break;
  }
  while (over-- > 0)
    retire_first();
}

// The one before it must be over.
double DeviceCommTimer::begin_of(std::size_t index, const core::DeviceEvent& since) const {
  const double own = moving_[index].begin.seconds_since(since);
  if (index == 0 && !last_end_) return own;
  const core::DeviceEvent& before = index == 0 ? *last_end_ : moving_[index - 1].end;
  return std::max(own, before.seconds_since(since));
}

void DeviceCommTimer::retire_first() {
  Moving& first = moving_.front();
  const double total = first.end.seconds_since(first.begin) - begin_of(0, first.begin);
  if (first.kind) {
    CommSeconds& seconds = times_[*first.kind];
    seconds.exposed += first.exposed;
    seconds.hidden += std::max(0.0, total - first.exposed);
  }
  events_.give(std::move(first.begin));
  if (last_end_) events_.give(std::move(*last_end_));
  last_end_ = std::move(first.end);
  moving_.pop_front();
}

}  // namespace lockstep::comm
