#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "launcher/bench/op_timer.h"

namespace lockstep::launcher {

// One collective at one size, as measured by all ranks together.
struct CommMeasurement {
  std::string collective;
  std::string dtype;
  std::size_t bytes = 0;  // of the whole vector (N shards) on one rank
  CallTime time;          // of one call, in each repetition that of the slowest rank
  // As nccl-tests counts: bytes / seconds; and what must cross to a rank, which is (N-1)/N of that,
  // for all_reduce 2(N-1)/N, for broadcast all; with one rank nothing.
  double algorithm_gb_per_s = 0;
  double bus_gb_per_s = 0;
  // Bytes that all ranks must at least read and write in memory per second, over those of plain
  // copies by all ranks at once in the same run.
  double copy_gb_per_s = 0;
  double fraction_of_copy = 0;
};

// Fills in the rates. bus_factor: bytes that cross to a rank, over `bytes`. traffic: bytes read and
// written by all ranks in a call; copy_rate: the same of copies, per second.
void set_rates(CommMeasurement& measurement, double bus_factor, double traffic, double copy_rate);

using CommReport = std::function<void(const CommMeasurement&)>;

// `bytes` rounded up to what N ranks can divide among them, in elements of up to 4 bytes.
std::size_t divisible_size(std::size_t bytes, int ranks);

// Measures reduce_scatter (fp32, and bf16 into fp32), all_gather, all_reduce, broadcast and
// all_to_all at each size (rounded up by divisible_size) on CPUs, in buffers shared with the node;
// copies of the size in turns with them. Collective; every rank reports.
void measure_comm(comm::Communicator& communicator, const std::vector<std::size_t>& sizes,
                  int repetitions, const CommReport& report);

}  // namespace lockstep::launcher
