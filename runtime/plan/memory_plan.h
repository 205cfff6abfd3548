#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "core/memory.h"
#include "runtime/config/config.h"

namespace lockstep::runtime {

struct PlannedRegion {
  std::string name;  // as the allocator's regions are named
  std::size_t bytes = 0;
  bool on_device = false;  // on CUDA: in the memory of the device; else in that of the host
};

// Memory of one rank while training, by region, computed from the tables that the allocations
// themselves use.
struct MemoryPlan {
  int world_size = 1;
  int zero_stage = 2;
  GradSync grad_sync = GradSync::kEveryRound;
  std::vector<PlannedRegion> regions;  // all are held at once while a checkpoint is saved
  std::size_t bytes_reduced = 0;  // sent by a rank in a step: slices of gradients to their owners
  std::size_t bytes_gathered =
      0;  // sent by a rank in a step: parameters (stages 1, 2) or summed gradients (stage 0)

  std::size_t total() const { return device_bytes() + host_bytes(); }
  std::size_t device_bytes() const;  // 0 on CPUs
  std::size_t host_bytes() const;
  std::size_t bytes_of(const std::string& region) const;  // 0 where there is no such region
  // What counts where memory is short: the device's on CUDA, else the host's.
  std::size_t scarce_bytes() const { return device_bytes() > 0 ? device_bytes() : host_bytes(); }
};

// For CUDA where backend.device says so (auto: for CPUs). threads: of one rank. Rank 0 needs most,
// because it writes the weights of a checkpoint. Throws Error(kConfig) when the global batch does
// not divide.
MemoryPlan plan_memory(const Config& config, int world_size, int threads, int rank = 0);

// The table that people read: a line per region in MiB, and, when `tracker` is given, the
// allocator's peak beside it.
std::string to_table(const MemoryPlan& plan, const core::MemoryTracker* tracker);

}  // namespace lockstep::runtime
