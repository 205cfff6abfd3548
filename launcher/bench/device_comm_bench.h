#pragma once

#include <cstddef>
#include <vector>

#include "comm/communicator.h"
#include "core/memory.h"
#include "launcher/bench/comm_bench.h"
#include "launcher/bench/op_timer.h"
#include "ops/op_context.h"

namespace lockstep::launcher {

struct DeviceCommOptions {
  std::vector<std::size_t> sizes;  // bytes of the whole vector, rounded up by divisible_size
  TimingLimits limits;             // of one collective of one dtype and size
  std::size_t copy_bytes = std::size_t{1} << 30;  // read by a copy of the ceiling
};

// Measures reduce_scatter, all_gather and all_reduce (sum) of fp32 and bf16 at each size in device
// memory, out of place; beside copies on the device of each rank, all ranks at once, before. Times
// are between events on the stream of `context`, on which the communicator must work. Calls follow
// one another in a ring of two buffers, as the buckets of a step do: the next one is given to the
// device while one is under way, and with nccl or one rank the host never waits between the events.
// Collective; every rank reports, as soon as something is measured.
void measure_device_comm(comm::Communicator& communicator, ops::OpContext& context,
                         core::MemoryTracker& memory, const DeviceCommOptions& options,
                         const CommReport& report);

}  // namespace lockstep::launcher
