#include <algorithm>
#include <deque>

#include "coordinator/server/conversions.h"
#include "coordinator/server/run_query.h"
#include "coordinator/server/run_sources.h"
#include "core/error.h"

namespace lockstep::coordinator {
namespace {

constexpr std::size_t kBatch = 64;

RunFilter read_filter(const std::string& text) {
  try {
    return RunFilter(text);
  } catch (const core::Error& error) {
    throw invalid_field("filter", error.what());
  }
}

// Events in order of sequence. First, unless it was asked from a sequence on, one of kind
// "snapshot" for each run: its newest event's numbers and its state.
class EventSource final : public MessageSource<v1::RunEvent> {
 public:
  EventSource(ServerState& state, const v1::WatchRunsRequest& request)
      : state_(state), filter_(read_filter(request.filter())), position_(request.from_sequence()) {
    const std::int64_t newest = state.engine.newest_sequence();
    if (position_ < 0 || position_ > newest) {
      EngineError error(ErrorCode::kOutOfRange, "SEQUENCE_OUT_OF_RANGE",
                        "from_sequence is " + std::to_string(position_) +
                            ", expected 0 (from now on) or a sequence up to the newest, " +
                            std::to_string(newest) + "; the store may have been replaced");
      throw error.with("newest_sequence", std::to_string(newest));
    }
    const std::int64_t forgotten = state.engine.forgotten_sequence();
    if (position_ != 0 && position_ < forgotten) {
      EngineError error(ErrorCode::kOutOfRange, "SEQUENCE_OUT_OF_RANGE",
                        "runs were deleted since event " + std::to_string(position_) +
                            ", and their events with them; watch from 0, which tells first what "
                            "there is");
      throw error.with("newest_sequence", std::to_string(newest));
    }
    if (position_ == 0) take_snapshot();
  }

  Next next(v1::RunEvent& message) override {
    if (!snapshot_.empty()) {
      fill_snapshot(*snapshot_.front(), message);
      snapshot_.pop_front();
      return Next::kMessage;
    }
    while (true) {
      if (batch_.empty() && !fetch()) return Next::kNothingYet;
      const EventRing::Entry entry = std::move(batch_.front());
      batch_.pop_front();
      position_ = entry.event.sequence;
      if (entry.run != nullptr && !filter_.matches(entry.run->run)) continue;
      message = to_proto(entry.event);
      // Of an old event the state after it is told only where it is still the state.
      if (entry.run != nullptr && entry.run->run.event_sequence >= entry.event.sequence &&
          (from_ring_ || entry.run->run.event_sequence == entry.event.sequence)) {
        *message.mutable_run_after() = to_proto(*entry.run, Texts::kWithout);
      }
      return Next::kMessage;
    }
  }

  bool may_have_more(const CallMoment& moment) override { return moment.sequence > position_; }

 private:
  void take_snapshot() {
    for (const RunPtr& run : state_.engine.list()) {
      position_ = std::max(position_, run->run.event_sequence);
      if (filter_.matches(run->run)) snapshot_.push_back(run);
    }
    std::sort(snapshot_.begin(), snapshot_.end(), [](const RunPtr& a, const RunPtr& b) {
      return a->run.event_sequence < b->run.event_sequence;
    });
  }

  static void fill_snapshot(const RunRecord& record, v1::RunEvent& message) {
    message.set_sequence(record.run.event_sequence);
    message.set_run_sequence(record.run.run_sequence);
    message.set_run(record.run.id);
    message.set_kind("snapshot");
    *message.mutable_time() = timestamp_message(record.run.update_time_ns);
    message.set_actor("coordinator");
    message.set_context_json("{\"v\":1}");
    *message.mutable_run_after() = to_proto(record, Texts::kWithout);
  }

  // False: there is nothing after position_.
  bool fetch() {
    if (auto entries = state_.events.after(position_, kBatch)) {
      from_ring_ = true;
      batch_.assign(entries->begin(), entries->end());
      return !batch_.empty();
    }
    if (state_.engine.newest_sequence() <= position_) return false;
    from_ring_ = false;
    for (const Event& event : state_.engine.events("", position_, kBatch))
      batch_.push_back({event, find(event.run)});
    return !batch_.empty();
  }

  RunPtr find(const std::string& id) const {
    try {
      return state_.engine.find(id);
    } catch (const EngineError&) {
      return nullptr;  // quarantined: its events are there, its state is not
    }
  }

  ServerState& state_;
  RunFilter filter_;
  std::int64_t position_;
  std::deque<RunPtr> snapshot_;
  std::deque<EventRing::Entry> batch_;
  bool from_ring_ = false;
};

}  // namespace

std::unique_ptr<MessageSource<v1::RunEvent>> make_event_source(
    ServerState& state, const v1::WatchRunsRequest& request) {
  return std::make_unique<EventSource>(state, request);
}

}  // namespace lockstep::coordinator
