#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "core/memory.h"
#include "launcher/bench/op_timer.h"
#include "ops/op_context.h"

namespace lockstep::launcher {

// What the device of a context can do at most, as far as measuring tells: nothing moves bytes
// faster than a copy, and nothing multiplies faster than a large square product by the same
// library. The fastest repetition counts.
struct Ceilings {
  double copy_bytes_per_second = 0.0;   // bytes read and bytes written, of one large copy
  double matrix_flop_per_second = 0.0;  // a multiply-add counts two
  std::size_t copy_bytes = 0;           // read by one copy
  std::int64_t matrix_size = 0;         // rows and columns of the product
};

// Bytes read and written per second by copying `bytes` from one place to another.
double measure_copy_rate(ops::OpContext& context, core::MemoryTracker& memory, std::size_t bytes,
                         const TimingLimits& limits);

// FLOP/s of a product of two random square matrices of `dtype` with `size` rows.
double measure_matrix_rate(ops::OpContext& context, core::MemoryTracker& memory, core::DType dtype,
                           std::int64_t size, const TimingLimits& limits);

// Large enough that caches and launches do not count, small enough for the kind of device.
std::int64_t matrix_size_for(const ops::OpContext& context, core::DType dtype);

// The copy is of 128 MiB on CPUs and of 1 GiB on devices, or of a quarter of memory_bytes.
Ceilings measure_ceilings(ops::OpContext& context, core::MemoryTracker& memory,
                          std::size_t memory_bytes, core::DType dtype, const TimingLimits& limits);

}  // namespace lockstep::launcher
