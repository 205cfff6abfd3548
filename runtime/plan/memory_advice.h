#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runtime/config/config.h"

namespace lockstep::runtime {

// A change after which a rank's memory plan fits.
struct MemoryAdvice {
  std::string change;       // "batch.micro=2", "parallel.zero_stage=2", "batch.micro=1 and 8 ranks"
  std::uint64_t bytes = 0;  // of the rank, afterwards
};

// The greatest micro-batch of at most half the present one that divides the global batch among
// world_size ranks; nothing when the present one is 1.
std::optional<std::int64_t> smaller_micro_batch(const Config& config, int world_size);

inline constexpr int kMostRanks = 1024;

const char* name_of(Recompute recompute);  // as memory.recompute says it

// What decides about the memory of a rank, beside the model.
struct MemorySetting {
  std::int64_t micro = 1;
  Recompute recompute = Recompute::kNone;
  int zero_stage = 2;
  GradSync grad_sync = GradSync::kEveryRound;
  int ranks = 1;
  std::uint64_t bytes = 0;  // of the rank

  // "batch.micro=2, memory.recompute=block, ..., 8 ranks"
  std::string to_text() const;
};

// The first setting in which `rank` takes at most `budget` bytes, from the present one towards less
// memory: micro-batches that divide the global batch, falling, before recompute, before stage and
// grad_sync, before more ranks (at most kMostRanks, and none unless more_ranks).
std::optional<MemorySetting> first_fitting(const Config& config, int world_size, int threads,
                                           int rank, std::uint64_t budget, bool more_ranks);

// The smallest changes that bring `rank` to at most `budget` bytes: every single key or the number
// of ranks that does so alone, with the value nearest to the present one; when there is none,
// first_fitting(); empty when nothing fits. more_ranks: whether further ranks would find memory of
// their own. From the tables of `lockstep plan`.
std::vector<MemoryAdvice> advise_memory(const Config& config, int world_size, int threads, int rank,
                                        std::uint64_t budget, bool more_ranks);

// One line for people: "batch.micro=2 (612.3 MiB), or parallel.zero_stage=2 (801.0 MiB)".
std::string to_text(const std::vector<MemoryAdvice>& advice);

}  // namespace lockstep::runtime
