#include "coordinator/engine/live_attempts.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace lockstep::coordinator {
namespace {

constexpr std::size_t kStepsForMedian = 21;

std::int64_t eta_ns(const LiveAttempt& live, std::int64_t step, std::int64_t now_ns) {
  const std::optional<double> seconds = live.median_step_seconds();
  if (!seconds || live.total_steps <= step) return 0;
  const double left = *seconds * static_cast<double>(live.total_steps - step);
  if (!std::isfinite(left) || left > 1e9) return 0;
  return now_ns + std::llround(left * static_cast<double>(kSecond));
}

}  // namespace

std::optional<double> LiveAttempt::median_step_seconds() const {
  if (step_seconds.empty()) return std::nullopt;
  std::vector<double> sorted(step_seconds.begin(), step_seconds.end());
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
  std::nth_element(sorted.begin(), middle, sorted.end());
  return *middle;
}

LiveAttempt& LiveAttempts::entry(const AttemptRef& ref, std::int64_t steady_ns) {
  auto found = entries_.find(ref.run);
  if (found != entries_.end() && found->second.ref != ref) {
    entries_.erase(found);
    found = entries_.end();
  }
  if (found == entries_.end()) {
    found = entries_.try_emplace(ref.run).first;
    found->second.ref = ref;
    found->second.last_contact_ns = steady_ns;
    found->second.activity_time_ns = steady_ns;
  }
  return found->second;
}

LiveAttempt LiveAttempts::get(const AttemptRef& ref, std::int64_t steady_ns) {
  const std::lock_guard lock(mutex_);
  return entry(ref, steady_ns);
}

void LiveAttempts::registered(const AgentRegistration& registration, const Moment& now) {
  const std::lock_guard lock(mutex_);
  LiveAttempt& live = entry(registration.attempt, now.steady.ns);
  live.total_steps = registration.total_steps;
  live.last_contact_ns = now.steady.ns;
  live.activity_time_ns = now.steady.ns;
  live.progress.step = std::max(live.progress.step, registration.resumed_step);
  live.progress.total_steps = registration.total_steps;
  live.progress.heartbeat_time_ns = now.unix_ns;
}

Progress LiveAttempts::beat(const Beat& beat, std::int64_t total_steps, const Moment& now) {
  const std::lock_guard lock(mutex_);
  LiveAttempt& live = entry(beat.attempt, now.steady.ns);
  live.last_contact_ns = now.steady.ns;
  live.total_steps = total_steps;
  live.has_beaten = true;
  if (beat.activity != live.activity || beat.collective_sequence != live.collective_sequence ||
      beat.step != live.progress.step) {
    live.activity_time_ns = now.steady.ns;
  }
  live.activity = beat.activity;
  live.collective_sequence = beat.collective_sequence;
  if (beat.step > live.progress.step && std::isfinite(beat.step_seconds) &&
      beat.step_seconds > 0.0) {
    live.step_seconds.push_back(beat.step_seconds);
    if (live.step_seconds.size() > kStepsForMedian) live.step_seconds.pop_front();
  }
  if (beat.acked_control_id > live.acked_control_id) {
    live.acked_control_id = beat.acked_control_id;
    live.step_before_ack = live.progress.step;
  }
  live.failed_control_id = beat.failed_control_id;
  live.checkpoint_step = beat.checkpoint_step;
  live.phase = beat.phase;
  Progress& progress = live.progress;
  progress.step = beat.step;
  progress.total_steps = live.total_steps;
  progress.loss = beat.loss;
  progress.tokens_per_second = beat.tokens_per_second;
  progress.step_seconds = beat.step_seconds;
  progress.eta_time_ns = eta_ns(live, beat.step, now.unix_ns);
  progress.heartbeat_time_ns = now.unix_ns;
  return progress;
}

void LiveAttempts::checkpoint_asked(const AttemptRef& ref, std::int64_t steady_ns) {
  const std::lock_guard lock(mutex_);
  entry(ref, steady_ns).checkpoint_asked_ns = steady_ns;
}

void LiveAttempts::forget(const std::string& run) {
  const std::lock_guard lock(mutex_);
  entries_.erase(run);
}

}  // namespace lockstep::coordinator
