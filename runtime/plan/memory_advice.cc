#include "runtime/plan/memory_advice.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "runtime/plan/memory_plan.h"

namespace lockstep::runtime {

namespace {

constexpr int kMostRecompute = static_cast<int>(Recompute::kBlock);

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
    keep(more_recompute());
    keep(more_sharding());
    if (more_ranks) keep(more_ranks_than(config_, ""));
    return found;
  }

  std::optional<MemorySetting> first_setting(bool more_ranks) const {
    const int most = more_ranks ? std::max(ranks_, kMostRanks) : ranks_;
    for (int ranks = ranks_; ranks <= most; ++ranks) {
      if (!least_fits(ranks)) continue;
      for (const auto& [stage, sync] : shardings()) {
        Config changed = config_;
        changed.parallel.zero_stage = stage;
        changed.parallel.grad_sync = sync;
        for (const Recompute recompute : recomputes()) {
          changed.memory.recompute = recompute;
          if (const auto setting = greatest_micro(changed, ranks)) return setting;
        }
      }
    }
    return std::nullopt;
  }

 private:
  std::optional<MemoryAdvice> fitting(const Config& changed, int ranks,
                                      const std::string& change) const {
    const std::uint64_t bytes = bytes_of(changed, ranks);
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

  // The present one first, then what takes less.
  std::vector<Recompute> recomputes() const {
    std::vector<Recompute> list;
    for (auto i = static_cast<int>(config_.memory.recompute); i <= kMostRecompute; ++i)
      list.push_back(static_cast<Recompute>(i));
    return list;
  }

  std::vector<std::pair<int, GradSync>> shardings() const {
    std::vector<std::pair<int, GradSync>> list;
    for (int stage = config_.parallel.zero_stage; stage <= 2; ++stage) {
      list.emplace_back(stage, config_.parallel.grad_sync);
      if (config_.parallel.grad_sync != GradSync::kEveryRound)
        list.emplace_back(stage, GradSync::kEveryRound);
    }
    return list;
  }

  std::vector<std::int64_t> micros(int ranks) const {
    std::vector<std::int64_t> list;
    for (std::int64_t micro = config_.batch.micro; micro >= 1; --micro) {
      if (config_.batch.global % (micro * ranks) == 0) list.push_back(micro);
    }
    return list;
  }

  std::uint64_t bytes_of(const Config& changed, int ranks) const {
    return plan_memory(changed, ranks, threads_, rank_).scarce_bytes();
  }

  // Whether anything can be found at this number of ranks.
  bool least_fits(int ranks) const {
    const std::vector<std::int64_t> list = micros(ranks);
    if (list.empty()) return false;
    Config least = config_;
    least.batch.micro = list.back();
    least.memory.recompute = Recompute::kBlock;
    least.parallel.zero_stage = 2;
    least.parallel.grad_sync = GradSync::kEveryRound;
    return bytes_of(least, ranks) <= budget_;
  }

  std::optional<MemorySetting> greatest_micro(Config changed, int ranks) const {
    for (const std::int64_t micro : micros(ranks)) {
      changed.batch.micro = micro;
      const std::uint64_t bytes = bytes_of(changed, ranks);
      if (bytes > budget_) continue;
      return MemorySetting{micro,
                           changed.memory.recompute,
                           changed.parallel.zero_stage,
                           changed.parallel.grad_sync,
                           ranks,
                           bytes};
    }
    return std::nullopt;
  }

  std::optional<MemoryAdvice> more_recompute() const {
    for (const Recompute recompute : recomputes()) {
      if (recompute == config_.memory.recompute) continue;
      Config changed = config_;
      changed.memory.recompute = recompute;
      if (auto advice =
              fitting(changed, ranks_, fmt::format("memory.recompute={}", name_of(recompute))))
        return advice;
    }
    return std::nullopt;
  }

  std::optional<MemoryAdvice> more_sharding() const {
    for (const auto& [stage, sync] : shardings()) {
      Config changed = config_;
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

const char* name_of(Recompute recompute) {
  switch (recompute) {
    case Recompute::kNone:
      return "none";
    case Recompute::kAttention:
      return "attention";
    case Recompute::kBlock:
      return "block";
  }
  return "none";
}

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
  if (const auto setting = adviser.first_setting(more_ranks))
    advice.push_back({setting->to_text(), setting->bytes});
  return advice;
}

std::string MemorySetting::to_text() const {
  return fmt::format(
      "batch.micro={}, memory.recompute={}, parallel.zero_stage={}, parallel.grad_sync={}, {} "
      "rank{}",
      micro, name_of(recompute), zero_stage,
      grad_sync == GradSync::kEveryRound ? "every_round" : "boundary", ranks,
      ranks == 1 ? "" : "s");
}

std::optional<MemorySetting> first_fitting(const Config& config, int world_size, int threads,
                                           int rank, std::uint64_t budget, bool more_ranks) {
  return Adviser(config, world_size, threads, rank, budget).first_setting(more_ranks);
}

std::string to_text(const std::vector<MemoryAdvice>& advice) {
  std::vector<std::string> texts;
  for (const MemoryAdvice& one : advice)
    texts.push_back(
        fmt::format("{} ({:.1f} MiB)", one.change, static_cast<double>(one.bytes) / 1048576.0));
  return fmt::format("{}", fmt::join(texts, ", or "));
}

}  // namespace lockstep::runtime
