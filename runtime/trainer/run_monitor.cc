#include "runtime/trainer/run_monitor.h"

#include <algorithm>

#include "runtime/step/step_report.h"

namespace lockstep::runtime {

namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

// Only one thread writes, so that the counter may go up in two parts.
class Writing {
 public:
  explicit Writing(std::atomic<std::uint64_t>& version) : version_(version) {
    version_.store(version_.load(kRelaxed) + 1, kRelaxed);
    std::atomic_thread_fence(std::memory_order_release);
  }
  ~Writing() { version_.store(version_.load(kRelaxed) + 1, std::memory_order_release); }
  Writing(const Writing&) = delete;
  Writing& operator=(const Writing&) = delete;

 private:
  std::atomic<std::uint64_t>& version_;
};

}  // namespace

const char* to_string(RunPhase phase) {
  switch (phase) {
    case RunPhase::kStarting:
      return "starting";
    case RunPhase::kTraining:
      return "training";
    case RunPhase::kValidating:
      return "validating";
    case RunPhase::kSaving:
      return "saving";
    case RunPhase::kEnding:
      return "ending";
  }
  return "unknown";
}

void RunMonitor::got_on(RunPhase phase) noexcept {
  const Writing writing(version_);
  phase_.store(phase, kRelaxed);
  activity_.store(activity_.load(kRelaxed) + 1, kRelaxed);
}

void RunMonitor::step_done(std::int64_t step, double loss, double tokens_per_second,
                           double step_seconds) noexcept {
  const Writing writing(version_);
  step_.store(step, kRelaxed);
  loss_.store(loss, kRelaxed);
  tokens_per_second_.store(tokens_per_second, kRelaxed);
  step_seconds_.store(step_seconds, kRelaxed);
  activity_.store(activity_.load(kRelaxed) + 1, kRelaxed);
}

void RunMonitor::saved(std::int64_t step) noexcept {
  const Writing writing(version_);
  checkpoint_step_.store(step, kRelaxed);
  activity_.store(activity_.load(kRelaxed) + 1, kRelaxed);
}

void RunMonitor::resumed(std::int64_t step) noexcept {
  const Writing writing(version_);
  step_.store(step, kRelaxed);
}

std::uint32_t RunMonitor::take_requests() noexcept {
  const std::int64_t taken = taken_.load(kRelaxed);
  const std::int64_t checkpoint = checkpoint_request_.load();
  const std::int64_t stop = stop_request_.load();
  std::uint32_t requests = kRequestNone;
  if (checkpoint > taken) requests |= kRequestCheckpoint;
  if (stop > 0) requests |= kRequestStop;
  taken_.store(std::max({taken, checkpoint, stop}));
  return requests;
}

void RunMonitor::request_checkpoint(std::int64_t number) noexcept {
  checkpoint_request_.store(number);
}

void RunMonitor::request_stop(std::int64_t number) noexcept {
  stop_request_.store(number);
}

std::int64_t RunMonitor::taken_request() const noexcept {
  return taken_.load();
}

void RunMonitor::save_failed() noexcept {
  failed_.store(taken_.load());
}

std::int64_t RunMonitor::failed_request() const noexcept {
  return failed_.load();
}

RunSnapshot RunMonitor::snapshot() const noexcept {
  RunSnapshot snapshot;
  std::uint64_t before = 0;
  std::uint64_t after = 0;
  do {
    before = version_.load(std::memory_order_acquire);
    snapshot.phase = phase_.load(kRelaxed);
    snapshot.step = step_.load(kRelaxed);
    snapshot.activity = activity_.load(kRelaxed);
    snapshot.loss = loss_.load(kRelaxed);
    snapshot.tokens_per_second = tokens_per_second_.load(kRelaxed);
    snapshot.step_seconds = step_seconds_.load(kRelaxed);
    snapshot.checkpoint_step = checkpoint_step_.load(kRelaxed);
    std::atomic_thread_fence(std::memory_order_acquire);
    after = version_.load(kRelaxed);
  } while (before != after || before % 2 != 0);
  return snapshot;
}

}  // namespace lockstep::runtime
