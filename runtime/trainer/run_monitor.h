#pragma once

#include <atomic>
#include <cstdint>

namespace lockstep::runtime {

enum class RunPhase : int { kStarting, kTraining, kValidating, kSaving, kEnding };
const char* to_string(RunPhase phase);  // "starting", "training", ...

// What has come of a run, as somebody beside it may see it.
struct RunSnapshot {
  RunPhase phase = RunPhase::kStarting;
  std::int64_t step = 0;      // attempts done
  std::int64_t activity = 0;  // rises while the rank gets on: micro-batches, validation, saves
  double loss = 0.0;          // of that step, like the two below
  double tokens_per_second = 0.0;
  double step_seconds = 0.0;
  std::int64_t checkpoint_step = 0;  // of the newest whole one of this attempt; 0: none
};

// Between the thread that trains and one that watches it and passes requests on. Lock-free: nothing
// that the watcher does or fails to do can hold up a step.
class RunMonitor {
 public:
  // For the thread that trains.
  void got_on(RunPhase phase) noexcept;
  void step_done(std::int64_t step, double loss, double tokens_per_second,
                 double step_seconds) noexcept;
  void saved(std::int64_t step) noexcept;
  void save_failed() noexcept;               // of the checkpoint that the newest request asked for
  void resumed(std::int64_t step) noexcept;  // continues behind this step
  // The requests (bits of ControlRequest) for the report of this step: a checkpoint once for each
  // time it was asked for, a stop from then on.
  std::uint32_t take_requests() noexcept;

  // For the one that watches. Numbers of requests rise; an old one again is no new request.
  void request_checkpoint(std::int64_t number) noexcept;
  void request_stop(std::int64_t number) noexcept;
  bool stop_requested() const noexcept { return stop_request_.load() > 0; }
  std::int64_t taken_request() const noexcept;   // the newest that is part of a report; 0: none
  std::int64_t failed_request() const noexcept;  // the newest of which no checkpoint came; 0: none
  RunSnapshot snapshot() const noexcept;         // all of one moment

 private:
  // Odd while the members below it are being written.
  std::atomic<std::uint64_t> version_{0};
  std::atomic<RunPhase> phase_{RunPhase::kStarting};
  std::atomic<std::int64_t> step_{0};
  std::atomic<std::int64_t> activity_{0};
  std::atomic<double> loss_{0.0};
  std::atomic<double> tokens_per_second_{0.0};
  std::atomic<double> step_seconds_{0.0};
  std::atomic<std::int64_t> checkpoint_step_{0};

  std::atomic<std::int64_t> checkpoint_request_{0};
  std::atomic<std::int64_t> stop_request_{0};
  std::atomic<std::int64_t> taken_{0};
  std::atomic<std::int64_t> failed_{0};
};
static_assert(std::atomic<double>::is_always_lock_free);

}  // namespace lockstep::runtime
