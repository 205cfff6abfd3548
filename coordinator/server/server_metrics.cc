#include "coordinator/server/server_metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <string_view>

#include "core/build_config.h"

namespace lockstep::coordinator {
namespace {

void head(std::string& text, std::string_view name, std::string_view type, std::string_view help) {
  fmt::format_to(std::back_inserter(text), "# HELP {0} {1}\n# TYPE {0} {2}\n", name, help, type);
}

template <typename Value>
void line(std::string& text, std::string_view name, std::string_view labels, const Value& value) {
  fmt::format_to(std::back_inserter(text), "{}{} {}\n", name, labels, value);
}

double seconds(std::int64_t ns) {
  return static_cast<double>(ns) / 1e9;
}

void add_runs(std::string& text, const std::vector<RunPtr>& runs, std::int64_t now_ns) {
  std::array<int, static_cast<std::size_t>(RunState::kCancelled) + 1> by_state{};
  double oldest = 0;
  double oldest_running = 0;
  int suspect = 0;
  for (const RunPtr& record : runs) {
    const Run& run = record->run;
    ++by_state[static_cast<std::size_t>(run.state)];
    suspect += run.suspect ? 1 : 0;
    if (run.state == RunState::kQueued) {
      oldest = std::max(oldest, seconds(now_ns - run.queue_time_ns));
    }
    if (run.state == RunState::kRunning) {
      oldest_running = std::max(oldest_running, seconds(now_ns - run.start_time_ns));
    }
  }
  head(text, "lockstep_runs", "gauge", "Runs by state.");
  for (int state = 1; state < static_cast<int>(by_state.size()); ++state) {
    line(text, "lockstep_runs",
         fmt::format("{{state=\"{}\"}}", to_string(static_cast<RunState>(state))),
         by_state[static_cast<std::size_t>(state)]);
  }
  head(text, "lockstep_queue_age_seconds", "gauge", "How long the oldest queued run has waited.");
  line(text, "lockstep_queue_age_seconds", "", oldest);
  head(text, "lockstep_runs_suspect", "gauge", "Runs whose agent has not been heard of.");
  line(text, "lockstep_runs_suspect", "", suspect);
  head(text, "lockstep_oldest_running_seconds", "gauge", "Since the oldest running run started.");
  line(text, "lockstep_oldest_running_seconds", "", oldest_running);
}

void add_slots(std::string& text, const std::vector<HostInfo>& hosts) {
  std::map<std::string, std::pair<int, int>> slots;  // by kind: all, leased
  int drained = 0;
  for (const HostInfo& host : hosts) {
    drained += host.drained ? 1 : 0;
    for (const SlotInfo& slot : host.slots) {
      ++slots[host.spec.kind].first;
      slots[host.spec.kind].second += slot.run.empty() ? 0 : 1;
    }
  }
  head(text, "lockstep_slots", "gauge", "Slots by kind.");
  for (const auto& [kind, count] : slots)
    line(text, "lockstep_slots", fmt::format("{{kind=\"{}\"}}", kind), count.first);
  head(text, "lockstep_slots_leased", "gauge", "Slots that a run holds, by kind.");
  for (const auto& [kind, count] : slots)
    line(text, "lockstep_slots_leased", fmt::format("{{kind=\"{}\"}}", kind), count.second);
  head(text, "lockstep_hosts_drained", "gauge", "Hosts where nothing starts.");
  line(text, "lockstep_hosts_drained", "", drained);
}

}  // namespace

void ServerMetrics::count_call(const std::string& method, const std::string& code,
                               double call_seconds) {
  const std::lock_guard lock(mutex_);
  Histogram& histogram = calls_[{method, code}];
  const auto* bound = std::lower_bound(kBounds.begin(), kBounds.end(), call_seconds);
  ++histogram.buckets[static_cast<std::size_t>(bound - kBounds.begin())];
  histogram.sum += call_seconds;
}

void ServerMetrics::count_stream_ended(const std::string& method, const std::string& code) {
  const std::lock_guard lock(mutex_);
  ++streams_ended_[{method, code}];
}

void ServerMetrics::count_log_bytes(std::int64_t bytes, std::int64_t dropped) {
  const std::lock_guard lock(mutex_);
  log_bytes_ += bytes;
  log_dropped_ += dropped;
}

void ServerMetrics::count_event(const Notice& notice) {
  if (notice.event == nullptr) return;
  const std::lock_guard lock(mutex_);
  if (notice.event->kind == EventKind::kRetryScheduled) ++restarts_;
  if (notice.event->kind == EventKind::kAttemptEnded && notice.run->run.result) {
    ++attempts_ended_[to_string(notice.run->run.result->category)];
  }
}

void ServerMetrics::set_replay_seconds(double replay_seconds) {
  const std::lock_guard lock(mutex_);
  replay_seconds_ = replay_seconds;
}

std::string ServerMetrics::text(const Engine& engine, std::size_t streams, std::size_t waits,
                                std::int64_t now_ns) const {
  std::string text;
  head(text, "lockstep_build_info", "gauge", "The version that runs.");
  line(text, "lockstep_build_info", fmt::format("{{version=\"{}\"}}", core::kVersion), 1);
  add_runs(text, engine.list(), now_ns);
  add_slots(text, engine.hosts());
  head(text, "lockstep_store_healthy", "gauge", "0 while the store cannot be written.");
  line(text, "lockstep_store_healthy", "", engine.store_healthy() ? 1 : 0);
  head(text, "lockstep_runs_quarantined", "gauge", "Runs whose part of the store is corrupt.");
  line(text, "lockstep_runs_quarantined", "", engine.quarantined().size());
  head(text, "lockstep_streams", "gauge", "Open streams.");
  line(text, "lockstep_streams", "", streams);
  head(text, "lockstep_waiting_calls", "gauge", "Calls of WaitRun that wait.");
  line(text, "lockstep_waiting_calls", "", waits);

  const std::lock_guard lock(mutex_);
  head(text, "lockstep_attempts_ended_total", "counter", "Attempts that ended, by category.");
  for (const auto& [category, count] : attempts_ended_)
    line(text, "lockstep_attempts_ended_total", fmt::format("{{category=\"{}\"}}", category),
         count);
  head(text, "lockstep_restarts_total", "counter", "Attempts that a failure cost.");
  line(text, "lockstep_restarts_total", "", restarts_);
  head(text, "lockstep_log_bytes_total", "counter", "Bytes of logs sent to readers.");
  line(text, "lockstep_log_bytes_total", "", log_bytes_);
  head(text, "lockstep_log_dropped_bytes_total", "counter",
       "Bytes that readers were told are gone.");
  line(text, "lockstep_log_dropped_bytes_total", "", log_dropped_);
  head(text, "lockstep_replay_seconds", "gauge", "What reading the store took at the start.");
  line(text, "lockstep_replay_seconds", "", replay_seconds_);
  head(text, "lockstep_streams_ended_total", "counter", "Streams that ended, by method and code.");
  for (const auto& [key, count] : streams_ended_) {
    line(text, "lockstep_streams_ended_total",
         fmt::format("{{method=\"{}\",code=\"{}\"}}", key.first, key.second), count);
  }
  head(text, "lockstep_call_seconds", "histogram", "Unary calls, by method and code.");
  for (const auto& [key, histogram] : calls_) {
    const std::string labels = fmt::format("method=\"{}\",code=\"{}\"", key.first, key.second);
    std::uint64_t total = 0;
    for (std::size_t i = 0; i < histogram.buckets.size(); ++i) {
      total += histogram.buckets[i];
      const std::string bound = i < kBounds.size() ? fmt::format("{}", kBounds[i]) : "+Inf";
      line(text, "lockstep_call_seconds_bucket", fmt::format("{{{},le=\"{}\"}}", labels, bound),
           total);
    }
    line(text, "lockstep_call_seconds_sum", "{" + labels + "}", histogram.sum);
    line(text, "lockstep_call_seconds_count", "{" + labels + "}", total);
  }
  return text;
}

}  // namespace lockstep::coordinator
