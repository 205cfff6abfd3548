#include "runtime/metrics/timing_log.h"

#include <fmt/format.h>

#include <algorithm>

namespace lockstep::runtime {

TimingLog::TimingLog(std::int64_t every_steps) : every_steps_(std::max(every_steps, kLeastSteps)) {}

std::optional<std::string> TimingLog::observe(std::int64_t step,
                                              std::span<const StepTiming> timings) {
  ranks_.resize(timings.size());
  for (std::size_t r = 0; r < timings.size(); ++r) {
    ranks_[r].data += timings[r].data;
    ranks_[r].compute += timings[r].compute;
    ranks_[r].wait += timings[r].wait;
  }
  ++steps_;
  if (step % every_steps_ != 0) return std::nullopt;
  std::string line = fields(step);
  ranks_.assign(ranks_.size(), {});
  steps_ = 0;
  return line;
}

std::string TimingLog::fields(std::int64_t step) const {
  const auto means = [&](double Sums::*part) {
    std::vector<std::string> texts;
    for (const Sums& sums : ranks_)
      texts.push_back(fmt::format("{:.6f}", sums.*part / static_cast<double>(steps_)));
    return fmt::format("[{}]", fmt::join(texts, ","));
  };
  return fmt::format(
      R"("step":{},"steps":{},"data_seconds":{},"compute_seconds":{},"wait_seconds":{})", step,
      steps_, means(&Sums::data), means(&Sums::compute), means(&Sums::wait));
}

}  // namespace lockstep::runtime
