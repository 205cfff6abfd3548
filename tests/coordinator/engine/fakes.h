#pragma once

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/attempts/attempt_host.h"
#include "coordinator/engine/checkpoints.h"
#include "coordinator/model/clock.h"

// Time, processes and checkpoints that tests set.
namespace lockstep::coordinator::testing {

class FakeClock final : public Clock {
 public:
  std::int64_t now_ns() const override { return now_; }
  BootTime boot_time() const override { return {"boot-" + std::to_string(boots_), steady_}; }

  void advance(double seconds) {
    steady_ += static_cast<std::int64_t>(seconds * kSecond);
    set_wall(seconds);
  }
  // Somebody sets the wall clock by so much.
  void set_wall(double seconds) { now_ += static_cast<std::int64_t>(seconds * kSecond); }
  void reboot() {
    ++boots_;
    steady_ = kSecond;
  }

 private:
  std::int64_t now_ = std::int64_t{1'700'000'000} * kSecond;
  std::int64_t steady_ = 5'000 * kSecond;
  int boots_ = 1;
};

// Outlives the engine, as processes do. What was launched runs until the test ends it.
class FakeAttempts final : public AttemptHost {
 public:
  struct Entry {
    LaunchSpec spec;
    AttemptStatus status;
    std::vector<StopRequest> stops;
    bool unreadable = false;  // its launch.json
  };

  void launch(const LaunchSpec& spec) override {
    if (!launch_error.empty()) throw std::runtime_error(launch_error);
    Entry entry;
    entry.spec = spec;
    entry.status.phase = AttemptPhase::kRunning;
    entries.push_back(std::move(entry));
  }

  AttemptStatus poll(const AttemptRef& attempt) override {
    Entry* entry = find(attempt);
    return entry == nullptr ? AttemptStatus{} : entry->status;
  }

  StopAnswer stop(const AttemptRef& attempt, const StopRequest& request) override {
    Entry* entry = find(attempt);
    if (entry == nullptr) return StopAnswer::kEnded;
    if (unreachable) return StopAnswer::kNotYet;
    entry->stops.push_back(request);
    if (entry->status.phase == AttemptPhase::kEnded) return StopAnswer::kEnded;
    entry->status.phase = AttemptPhase::kStopping;
    return StopAnswer::kAccepted;
  }

  std::vector<FoundAttempt> find_all(const std::function<bool(const std::string&)>& skip) override {
    std::vector<FoundAttempt> all;
    for (const Entry& entry : entries) {
      if (skip(entry.spec.attempt.run)) continue;
      all.push_back({entry.spec.attempt,
                     entry.unreadable ? std::nullopt : std::optional(entry.spec),
                     entry.status.phase == AttemptPhase::kEnded});
    }
    return all;
  }

  void set_aside(const AttemptRef& attempt) override {
    std::erase_if(entries, [&](const Entry& entry) { return entry.spec.attempt == attempt; });
  }

  // Those that have processes.
  std::vector<AttemptRef> living() const {
    std::vector<AttemptRef> all;
    for (const Entry& entry : entries) {
      if (entry.status.phase != AttemptPhase::kEnded) all.push_back(entry.spec.attempt);
    }
    return all;
  }

  void remove(const AttemptRef& attempt) override { removed.push_back(attempt.number); }

  Entry* find(const AttemptRef& attempt) {
    const auto found = std::find_if(entries.begin(), entries.end(), [&](const Entry& entry) {
      return entry.spec.attempt == attempt;
    });
    return found == entries.end() ? nullptr : &*found;
  }

  std::vector<Entry> entries;
  std::vector<int> removed;  // numbers of the attempts whose files were
  std::string launch_error;  // not empty: launch() throws it
  bool unreachable = false;  // stop() answers "not yet"
};

class FakeCheckpoints final : public Checkpoints {
 public:
  std::optional<CheckpointInfo> newest_verified(const std::string& output) override {
    std::optional<CheckpointInfo> newest;
    for (const CheckpointInfo& info : list(output, true)) {
      if (info.verified && !newest) newest = info;
    }
    return newest;
  }

  std::optional<CheckpointInfo> verify(const std::string& output, std::int64_t step) override {
    for (const CheckpointInfo& info : list(output, true)) {
      if (info.step == step) return info;
    }
    return std::nullopt;
  }

  std::vector<CheckpointInfo> list(const std::string& output, bool) override {
    std::vector<CheckpointInfo> all = by_output[output];
    std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.step > b.step; });
    return all;
  }

  void add(const std::string& output, std::int64_t step, bool whole = true) {
    CheckpointInfo info;
    info.step = step;
    info.path = output + "/checkpoints/step-" + std::to_string(step);
    info.verified = whole;
    if (!whole) info.problem = "a file is torn";
    by_output[output].push_back(info);
  }

  std::map<std::string, std::vector<CheckpointInfo>> by_output;
};

}  // namespace lockstep::coordinator::testing
