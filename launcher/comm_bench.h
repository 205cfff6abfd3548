#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "comm/communicator.h"

namespace lockstep::launcher {

// One collective at one size, as measured by all ranks together.
struct CommMeasurement {
  std::string collective;
  std::string dtype;
  std::size_t bytes = 0;    // of the whole vector (N shards) on one rank
  double seconds = 0;       // median over repetitions of the slowest rank's time for one call
  double bus_gb_per_s = 0;  // bytes that must cross to a rank, per second: (N-1)/N * bytes /
                            // seconds, twice that for all_reduce
  // Memory traffic of all ranks per second, over that of plain copies of `bytes` by all ranks at
  // once, measured in turns with the collective.
  double copy_gb_per_s = 0;
  double fraction_of_copy = 0;
};

// Measures reduce_scatter (fp32, and bf16 into fp32), all_gather, all_reduce, broadcast and
// all_to_all at each size, in buffers shared with the node. Collective; every rank gets the result.
// Sizes are rounded up to a multiple of what N ranks can divide.
std::vector<CommMeasurement> measure_comm(comm::Communicator& communicator,
                                          const std::vector<std::size_t>& sizes, int repetitions);

}  // namespace lockstep::launcher
