#include "runtime/plan/memory_advice.h"

#include <fmt/format.h>

#include <algorithm>

#include "runtime/plan/memory_plan.h"

namespace lockstep::runtime {

namespace {

// Tries changes of a config against a budget.
class Adviser {
 public:
  Adviser(const Config& config, int world_size, int threads, int rank, std::uint64_t budget)
      : config_(config), ranks_(world_size), threads_(threads), rank_(rank), budget_(budget) {}

  std::vector<MemoryAdvice> single_changes(bool more_ranks) const {
    std::vector<MemoryAdvice> found;
    const auto keep = [&](const std::optional<MemoryAdvice>& advice) {
      if (advice) found.push_back(*advice);
    };
    keep(smaller_micro(config_, ranks_, ""));
    keep(more_sharding());
    if (more_ranks) keep(more_ranks_than(config_, ""));
    return found;
  }

  // The least memory that these ranks can do with; then more of them.
  std::optional<MemoryAdvice> combination(bool more_ranks) const {
    Config least = config_;
    std::string change;
    if (least.parallel.zero_stage != 2 || least.parallel.grad_sync != GradSync::kEveryRound) {
      least.parallel.zero_stage = 2;
      least.parallel.grad_sync = GradSync::kEveryRound;
      change = "parallel.zero_stage=2, parallel.grad_sync=every_round and ";
    }
    if (const auto advice = smaller_micro(least, ranks_, change)) return advice;
    if (!more_ranks) return std::nullopt;
    if (least.batch.micro > 1) change += "batch.micro=1 and ";
    least.batch.micro = 1;
    return more_ranks_than(least, change);
  }

 private:
  std::optional<MemoryAdvice> fitting(const Config& changed, int ranks,
                                      const std::string& change) const {
    const std::uint64_t bytes = plan_memory(changed, ranks, threads_, rank_).scarce_bytes();
    if (bytes > budget_) return std::nullopt;
    return MemoryAdvice{change, bytes};
  }

  std::optional<MemoryAdvice> smaller_micro(Config changed, int ranks,
                                            const std::string& prefix) const {
    for (std::int64_t micro = changed.batch.micro - 1; micro >= 1; --micro) {
      if (changed.batch.global % (micro * ranks) != 0) continue;
      changed.batch.micro = micro;
      if (auto advice = fitting(changed, ranks, fmt::format("{}batch.micro={}", prefix, micro)))
        return advice;
    }
    return std::nullopt;
  }

  std::optional<MemoryAdvice> more_sharding() const {
    Config changed = config_;
    for (int stage = config_.parallel.zero_stage; stage <= 2; ++stage) {
      for (const GradSync sync : {config_.parallel.grad_sync, GradSync::kEveryRound}) {
        changed.parallel.zero_stage = stage;
        changed.parallel.grad_sync = sync;
        std::vector<std::string> keys;
        if (stage != config_.parallel.zero_stage)
          keys.push_back(fmt::format("parallel.zero_stage={}", stage));
        if (sync != config_.parallel.grad_sync) keys.emplace_back("parallel.grad_sync=every_round");
        if (keys.empty()) continue;
        if (auto advice = fitting(changed, ranks_, fmt::format("{}", fmt::join(keys, " and "))))
          return advice;
      }
    }
    return std::nullopt;
  }

  std::optional<MemoryAdvice> more_ranks_than(const Config& changed,
                                              const std::string& prefix) const {
    for (int ranks = ranks_ + 1; ranks <= kMostRanks; ++ranks) {
      if (changed.batch.global % (changed.batch.micro * ranks) != 0) continue;
      if (auto advice = fitting(changed, ranks, fmt::format("{}{} ranks", prefix, ranks)))
        return advice;
    }
    return std::nullopt;
  }

  const Config& config_;
  int ranks_;
  int threads_;
  int rank_;
  std::uint64_t budget_;
};

}  // namespace

std::optional<std::int64_t> smaller_micro_batch(const Config& config, int world_size) {
  for (std::int64_t micro = config.batch.micro / 2; micro >= 1; --micro) {
    if (config.batch.global % (micro * world_size) == 0) return micro;
  }
  return std::nullopt;
}

std::vector<MemoryAdvice> advise_memory(const Config& config, int world_size, int threads, int rank,
                                        std::uint64_t budget, bool more_ranks) {
  const Adviser adviser(config, world_size, threads, rank, budget);
  std::vector<MemoryAdvice> advice = adviser.single_changes(more_ranks);
  if (!advice.empty()) return advice;
  if (const auto combined = adviser.combination(more_ranks)) advice.push_back(*combined);
  return advice;
}

std::string to_text(const std::vector<MemoryAdvice>& advice) {
  std::vector<std::string> texts;
  for (const MemoryAdvice& one : advice)
    texts.push_back(
        fmt::format("{} ({:.1f} MiB)", one.change, static_cast<double>(one.bytes) / 1048576.0));
  return fmt::format("{}", fmt::join(texts, ", or "));
}

}  // namespace lockstep::runtime
