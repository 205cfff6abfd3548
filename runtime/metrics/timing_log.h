#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/step/step_timing.h"

namespace lockstep::runtime {

// Sums the ranks' timings up to the next `timing` line of metrics.jsonl.
class TimingLog {
 public:
  static constexpr std::int64_t kLeastSteps = 10;

  // A line every `every_steps` steps, or every kLeastSteps if that is more.
  explicit TimingLog(std::int64_t every_steps);

  // The timings of one step, by rank. Returns the members of a line when one is due: per rank, the
  // mean over the `steps` steps since the last line,
  //   "step":20,"steps":10,"data_seconds":[..],"compute_seconds":[..],"wait_seconds":[..]
  std::optional<std::string> observe(std::int64_t step, std::span<const StepTiming> timings);

 private:
  struct Sums {
    double data = 0.0;
    double compute = 0.0;
    double wait = 0.0;
  };

  std::string fields(std::int64_t step) const;

  std::int64_t every_steps_;
  std::int64_t steps_ = 0;  // summed so far
  std::vector<Sums> ranks_;
};

}  // namespace lockstep::runtime
