#include <algorithm>
#include <nlohmann/json.hpp>

#include "coordinator/server/conversions.h"
#include "coordinator/server/line_file.h"
#include "coordinator/server/run_sources.h"

namespace lockstep::coordinator {
namespace {

constexpr int kMaxEvents = 32;

// Which lines of metrics.jsonl were asked for.
class LineFilter {
 public:
  explicit LineFilter(const v1::ReadMetricsRequest& request)
      : events_(request.events().begin(), request.events().end()),
        first_(request.first_step()),
        last_(request.last_step()) {
    if (request.events_size() > kMaxEvents) {
      throw invalid_field("events", "expected at most " + std::to_string(kMaxEvents));
    }
  }

  bool operator()(std::string_view text) const {
    if (events_.empty() && first_ <= 0 && last_ <= 0) return true;
    const nlohmann::json line = nlohmann::json::parse(text, nullptr, false);
    if (!line.is_object()) return false;
    const auto event = line.find("event");
    if (!events_.empty() &&
        (event == line.end() || !event->is_string() ||
         std::find(events_.begin(), events_.end(), event->get<std::string>()) == events_.end())) {
      return false;
    }
    const auto step = line.find("step");
    if (step == line.end() || !step->is_number_integer()) return first_ <= 0 && last_ <= 0;
    const auto number = step->get<std::int64_t>();
    return number >= first_ && (last_ <= 0 || number <= last_);
  }

 private:
  std::vector<std::string> events_;
  std::int64_t first_;
  std::int64_t last_;
};

class MetricsSource final : public MessageSource<v1::MetricsChunk> {
 public:
  MetricsSource(ServerState& state, const v1::ReadMetricsRequest& request)
      : state_(state),
        record_(state.engine.find(request.name())),
        run_(record_->run.id),
        filter_(request),
        file_(record_->run.output, "metrics.jsonl", request.after_offset()),
        tail_(request.tail_lines()),
        follow_(request.follow()) {
    if (request.after_offset() < 0) throw invalid_field("after_offset", "expected 0 or more");
    if (tail_ < 0) throw invalid_field("tail_lines", "expected 0 (all) or more");
  }

  Next next(v1::MetricsChunk& message) override {
    looked_ns_ = steady_ns();
    if (tail_ > 0) file_.go_to_tail(std::exchange(tail_, 0), filter_);
    const RunPtr record = state_.engine.find(run_);
    while (true) {
      LineFile::Part part = file_.next(filter_);
      message.set_next_offset(part.next_offset);
      message.set_cut_back(part.cut_back);
      if (part.cut_back || !part.lines.empty()) {
        message.set_lines(std::move(part.lines));
        return Next::kMessage;
      }
      if (!part.at_end) continue;
      if (follow_ && !is_terminal(record->run.state)) return Next::kNothingYet;
      message.set_end_of_stream(true);
      *message.mutable_run() = to_proto(*record, Texts::kWithout);
      return Next::kLastMessage;
    }
  }

  bool may_have_more(const CallMoment& moment) override {
    return moment.now_ns - looked_ns_ >= kFilePollNs;
  }

 private:
  ServerState& state_;
  const RunPtr record_;  // as it was when the call came
  const std::string run_;
  LineFilter filter_;
  LineFile file_;
  std::int64_t tail_;
  const bool follow_;
  std::int64_t looked_ns_ = 0;
};

}  // namespace

std::unique_ptr<MessageSource<v1::MetricsChunk>> make_metrics_source(
    ServerState& state, const v1::ReadMetricsRequest& request) {
  return std::make_unique<MetricsSource>(state, request);
}

}  // namespace lockstep::coordinator
