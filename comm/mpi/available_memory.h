#pragma once

#include <cstdint>

namespace lockstep::comm {

// Bytes that this process and its peers on the machine can still take before the kernel starts to
// kill: what the machine has available, or what the memory limits of this process's control groups
// leave, whichever is less. Shared memory is not refused when memory runs out, so it is asked for
// before reserving any.
std::uint64_t available_memory();

// Bytes that all processes of the machine, or of the strictest of this process's control groups,
// can hold at most: what can never be exceeded, however much others give back.
std::uint64_t memory_capacity();

}  // namespace lockstep::comm
