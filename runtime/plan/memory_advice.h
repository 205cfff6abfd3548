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

// The smallest changes that bring `rank` to at most `budget` bytes: every single key or the number
// of ranks (at most kMostRanks) that does so alone, with the value nearest to the present one; when
// there is none, one combination; empty when nothing fits. more_ranks: whether further ranks would
// find memory of their own. From the tables of `lockstep plan`.
inline constexpr int kMostRanks = 1024;
std::vector<MemoryAdvice> advise_memory(const Config& config, int world_size, int threads, int rank,
                                        std::uint64_t budget, bool more_ranks);

// One line for people: "batch.micro=2 (612.3 MiB), or parallel.zero_stage=2 (801.0 MiB)".
std::string to_text(const std::vector<MemoryAdvice>& advice);

}  // namespace lockstep::runtime
