#pragma once

#include "models/ops/cuda/op_kernel.cuh"

namespace lockstep::models::ops::cuda {

inline constexpr int kSlotLanes = 8;  // threads that share a column of combine_slots

template <typename T>
__global__ void combine_slots_kernel(const float* partials, std::int64_t slots, std::int64_t cols,
                                     T* out) {
  LOCKSTEP_SHARED(float, sums, kSlotLanes* kWarp);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int slot_lane = static_cast<int>(threadIdx.x) / kWarp;
  const std::int64_t col = static_cast<std::int64_t>(blockIdx.x) * kWarp + lane;
  float sum = 0.0F;
  if (col < cols) {
    for (std::int64_t s = slot_lane; s < slots; s += kSlotLanes)
      sum += partials[s * cols + col];
  }
  sums[threadIdx.x] = sum;
  sync_threads();
  if (slot_lane != 0 || col >= cols) return;
  for (int s = 1; s < kSlotLanes; ++s)
    sum += sums[s * kWarp + lane];
  out[col] = from_float<T>(sum);
}

// out[c] = the sum over `slots` rows of partial sums [slots, cols], always in the same order,
// rounded once.
template <typename T>
void combine_slots(OpContext& context, const float* partials, std::int64_t slots, std::int64_t cols,
                   T* out) {
  launch("combine_slots", combine_slots_kernel<T>,
         Grid{block_count(ceil_div(cols, kWarp)), kSlotLanes * kWarp, 0}, context.stream(),
         partials, slots, cols, out);
}

}  // namespace lockstep::models::ops::cuda
