#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "coordinator/engine/engine.h"

namespace lockstep::coordinator {

// What GET /metrics tells, in the text form of Prometheus. Never labelled by run. Thread-safe.
class ServerMetrics {
 public:
  // Upper bounds of the buckets of latencies, in seconds; one more for all above.
  static constexpr std::array<double, 10> kBounds = {0.001, 0.0025, 0.005, 0.01, 0.025,
                                                     0.05,  0.1,    0.25,  1,    10};

  void count_call(const std::string& method, const std::string& code, double seconds);
  void count_stream_ended(const std::string& method, const std::string& code);
  void count_log_bytes(std::int64_t bytes, std::int64_t dropped);
  void count_event(const Notice& notice);  // as a listener of the engine
  void set_replay_seconds(double seconds);

  // streams, waits: open now.
  std::string text(const Engine& engine, std::size_t streams, std::size_t waits,
                   std::int64_t now_ns) const;

 private:
  struct Histogram {
    std::array<std::uint64_t, kBounds.size() + 1> buckets{};
    double sum = 0;
  };

  mutable std::mutex mutex_;
  std::map<std::pair<std::string, std::string>, Histogram> calls_;  // by method and code
  std::map<std::pair<std::string, std::string>, std::uint64_t> streams_ended_;
  std::map<std::string, std::uint64_t> attempts_ended_;  // by category
  std::uint64_t restarts_ = 0;
  std::int64_t log_bytes_ = 0;
  std::int64_t log_dropped_ = 0;
  double replay_seconds_ = 0;
};

}  // namespace lockstep::coordinator
