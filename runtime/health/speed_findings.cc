#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "runtime/health/findings.h"

namespace lockstep::runtime {

namespace {

double sum(const std::vector<double>& values) {
  double total = 0.0;
  for (const double value : values)
    total += value;
  return total;
}

// The lower one of two: a slow rank must not raise what it is measured by.
double lower_median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>((values.size() - 1) / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Seconds of a rank's own work in a step of this line.
std::vector<double> busy(const TimingPoint& point) {
  std::vector<double> seconds;
  for (std::size_t r = 0; r < point.compute.size(); ++r)
    seconds.push_back(point.data[r] + point.compute[r]);
  return seconds;
}

// How the run's last half of timing lines sees a rank.
struct SlowRank {
  std::size_t rank = 0;
  std::size_t lines = 0;  // in which it was slow
  double seconds = 0.0;   // mean of these, and the others' median
  double others = 0.0;
  double data = 0.0;
};

SlowRank judge_rank(std::span<const TimingPoint> points, std::size_t rank) {
  constexpr double kFactor = 1.2;
  constexpr double kSeconds = 5e-3;
  SlowRank slow;
  slow.rank = rank;
  for (const TimingPoint& point : points) {
    const std::vector<double> seconds = busy(point);
    if (rank >= seconds.size()) continue;
    const double usual = lower_median(seconds);
    if (seconds[rank] < std::max(kFactor * usual, usual + kSeconds)) continue;
    ++slow.lines;
    slow.seconds += seconds[rank];
    slow.others += usual;
    slow.data += point.data[rank];
  }
  return slow;
}

}  // namespace

std::optional<Finding> find_slow_data(const RunHistory& history) {
  constexpr double kShare = 0.2;
  constexpr std::size_t kLeast = 2;
  const std::size_t n = history.timings.size();
  if (n < kLeast) return std::nullopt;
  const auto half = std::span(history.timings).subspan(n / 2);
  double data = 0.0;
  double all = 0.0;
  for (const TimingPoint& point : half) {
    data += sum(point.data);
    all += sum(point.data) + sum(point.compute) + sum(point.wait);
  }
  if (!(data > kShare * all)) return std::nullopt;
  Finding finding;
  finding.first_step = half.front().step;
  finding.last_step = half.back().step;
  finding.evidence =
      fmt::format("{:.0f} % of the ranks' time is spent on reading data", 100.0 * data / all);
  finding.causes = {"token files on a slow or shared file system",
                    "shuffled reads from a disk that seeks, with too little memory for its cache"};
  finding.advice = {{"", "copy the token files to a local disk and name them in data.train"},
                    {"data.order=sequential", "reads in order, if shuffling does not matter"}};
  return finding;
}

std::optional<Finding> find_slow_rank(const RunHistory& history) {
  constexpr std::size_t kLeast = 2;
  const std::size_t n = history.timings.size();
  if (n < kLeast || history.timings.back().compute.size() < 2) return std::nullopt;
  const auto half = std::span(history.timings).subspan(n / 2);
  SlowRank worst;
  for (std::size_t rank = 0; rank < half.back().compute.size(); ++rank) {
    const SlowRank slow = judge_rank(half, rank);
    if (slow.lines > worst.lines) worst = slow;
  }
  if (worst.lines == 0 || 4 * worst.lines < 3 * half.size()) return std::nullopt;
  const auto lines = static_cast<double>(worst.lines);
  const bool by_data = worst.data > 0.5 * (worst.seconds - worst.others);
  Finding finding;
  finding.first_step = half.front().step;
  finding.last_step = half.back().step;
  finding.evidence = fmt::format(
      "rank {} takes {:.3g} ms of its own for a step where the others take {:.3g}{}, in {} of the "
      "last {} timing lines",
      worst.rank, 1e3 * worst.seconds / lines, 1e3 * worst.others / lines,
      by_data ? ", most of the difference on reading data" : "", worst.lines, half.size());
  finding.causes = {by_data ? "slow data on that rank's host"
                            : "a host that is slower, hotter or shared with other work",
                    "ranks that share cores: more threads than cores on that host"};
  finding.advice = {{"", "compare `lockstep bench ops` there with another host"},
                    {"backend.threads=1", "if ranks share cores"}};
  return finding;
}

std::optional<Finding> find_memory_near_limit(const RunHistory& history) {
  constexpr double kNear = 0.95;
  const double limit = history.config.memory.limit_mib * 1048576.0;
  if (limit == 0.0 || !(history.peak_bytes > kNear * limit)) return std::nullopt;
  Finding finding;
  finding.first_step = history.steps.empty() ? 0 : history.steps.front().step;
  finding.last_step = history.steps.empty() ? 0 : history.steps.back().step;
  finding.evidence =
      fmt::format("rank 0 allocated {:.1f} MiB of the {:.1f} that memory.limit_mib allows",
                  history.peak_bytes / 1048576.0, history.config.memory.limit_mib);
  finding.causes = {"activations of a micro-batch that is large for this memory"};
  const Config& config = history.config;
  if (config.batch.micro > 1) {
    finding.advice.push_back(
        {fmt::format("batch.micro={}", config.batch.micro % 2 == 0 ? config.batch.micro / 2 : 1),
         "fewer activations at a time; the same curve but for rounding"});
  }
  if (config.memory.recompute == Recompute::kNone)
    finding.advice.push_back({"memory.recompute=block", "same bits, about a fifth more time"});
  return finding;
}

}  // namespace lockstep::runtime
