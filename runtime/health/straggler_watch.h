#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/step/step_timing.h"

namespace lockstep::runtime {

struct Straggler {
  enum class Phase : std::uint8_t { kData, kCompute };

  int rank = 0;
  Phase phase = Phase::kCompute;  // in which it exceeds the median of the ranks by more
  double seconds = 0.0;           // of that phase, mean over the window
  double median = 0.0;            // of the ranks' such means

  std::string describe() const;  // "rank 2 is slow: compute 41 ms against a median of 29 ms over
                                 // 20 steps"
};
const char* name_of(Straggler::Phase phase);  // "data", "compute"

// Names ranks that are slow again and again. A rank is slow in a step when its data and compute
// together exceed the median of the ranks (the lower one of two) by more than 20 % and more than
// 5 ms; it is a straggler when it was so in at least 16 of the last 20 steps. Waiting is left out:
// everybody waits for the slowest. Pure: knows only what it is given.
class StragglerWatch {
 public:
  static constexpr int kWindow = 20;
  static constexpr int kSlowSteps = 16;
  static constexpr double kSlowFactor = 1.20;
  static constexpr double kSlowSeconds = 0.005;
  static constexpr std::int64_t kQuietSteps = 100;

  explicit StragglerWatch(int world_size);

  // One step's timings, by rank. Returns the stragglers to tell about: each rank at most once in
  // kQuietSteps calls.
  std::vector<Straggler> observe(std::span<const StepTiming> timings);

 private:
  bool is_straggler(int rank) const;
  Straggler describe(int rank) const;
  double mean(int rank, Straggler::Phase phase) const;
  double median_of_means(Straggler::Phase phase) const;

  int world_size_;
  std::int64_t observed_ = 0;
  std::array<std::vector<StepTiming>, kWindow> window_;  // by observation % kWindow, then rank
  std::array<std::vector<char>, kWindow> slow_;          // likewise
  std::vector<std::int64_t> told_;                       // by rank: observation; 0: never
};

}  // namespace lockstep::runtime
