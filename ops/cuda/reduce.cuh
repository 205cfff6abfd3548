#pragma once

#include "ops/cuda/op_kernel.cuh"

namespace lockstep::ops::cuda {

inline constexpr int kSlotLanes = 32;  // threads that share a column of combine_slots

// out[c] = the sum of partials[:, c]; both null where there is nothing to sum.
template <typename T>
struct SlotSums {
  const float* partials;
  T* out;
};

// The first `col_blocks` blocks combine `a`, the others `b`.
template <typename T>
__global__ void __launch_bounds__(kSlotLanes* kWarp)
    combine_slots_kernel(SlotSums<T> a, SlotSums<T> b, std::int64_t slots, std::int64_t cols,
                         unsigned col_blocks) {
  LOCKSTEP_SHARED(float, sums, kSlotLanes* kWarp);
  const SlotSums<T> own = blockIdx.x < col_blocks ? a : b;
  const int lane = lane_of_thread();
  const int slot_lane = warp_of_thread();
  const std::int64_t col = static_cast<std::int64_t>(blockIdx.x % col_blocks) * kWarp + lane;
  float sum = 0.0F;
  if (col < cols) {
#pragma unroll 8
    for (std::int64_t s = slot_lane; s < slots; s += kSlotLanes)
      sum += own.partials[s * cols + col];
  }
  sums[threadIdx.x] = sum;
  sync_threads();
  if (slot_lane != 0 || col >= cols) return;
#pragma unroll 8
  for (int s = 1; s < kSlotLanes; ++s)
    sum += sums[s * kWarp + lane];
  own.out[col] = from_float<T>(sum);
}

// The sums over `slots` rows of partial sums [slots, cols], always in the same order, rounded once.
template <typename T>
void combine_slots(OpContext& context, std::int64_t slots, std::int64_t cols, SlotSums<T> a,
                   SlotSums<T> b = {nullptr, nullptr}) {
  const std::int64_t col_blocks = ceil_div(cols, kWarp);
  launch("combine_slots", combine_slots_kernel<T>,
         Grid{block_count(b.out == nullptr ? col_blocks : 2 * col_blocks), kSlotLanes * kWarp, 0},
         context.stream(), a, b, slots, cols, block_count(col_blocks));
}

}  // namespace lockstep::ops::cuda
