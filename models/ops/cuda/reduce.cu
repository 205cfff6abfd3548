#include "models/ops/cuda/bodies.h"
#include "models/ops/cuda/reduce.cuh"

namespace lockstep::models::ops::cuda {

namespace {

constexpr int kRowLanes = 8;                        // rows that a block reads at a time
constexpr std::int64_t kBlockCols = kWarp * kLane;  // columns of a block
constexpr std::int64_t kMaxSlots = 128;             // parts that the rows are cut into
constexpr std::int64_t kLeastRows = 4 * kRowLanes;  // of a part

// partials[slot, c] = the sum of column c over the rows of one part.
template <typename T>
__global__ void column_sum_kernel(Rows<const T> x, std::int64_t rows, std::int64_t cols,
                                  std::int64_t rows_per_slot, unsigned col_blocks,
                                  float* partials) {
  LOCKSTEP_SHARED(float, sums, kRowLanes* kBlockCols);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int row_lane = static_cast<int>(threadIdx.x) / kWarp;
  const std::int64_t slot = blockIdx.x / col_blocks;
  const std::int64_t col = blockIdx.x % col_blocks * kBlockCols + lane * kLane;
  const std::int64_t begin = slot * rows_per_slot;
  const std::int64_t end = begin + rows_per_slot < rows ? begin + rows_per_slot : rows;
  float sum[kLane] = {};
  for (std::int64_t r = begin + row_lane; r < end; r += kRowLanes) {
    float v[kLane];
    load(x.row(r) + col, cols - col, x.aligned, v);
#pragma unroll
    for (int i = 0; i < kLane; ++i)
      sum[i] += v[i];
  }
#pragma unroll
  for (int i = 0; i < kLane; ++i)
    sums[row_lane * kBlockCols + lane * kLane + i] = sum[i];
  sync_threads();
  const std::int64_t out_col = blockIdx.x % col_blocks * kBlockCols + threadIdx.x;
  if (out_col >= cols) return;
  float total = sums[threadIdx.x];
  for (int l = 1; l < kRowLanes; ++l)
    total += sums[l * kBlockCols + threadIdx.x];
  partials[slot * cols + out_col] = total;
}

}  // namespace

void column_sum(OpContext& context, ConstTensorView x, TensorView out) {
  const std::int64_t rows = x.rows();
  const std::int64_t cols = out.elements();
  const std::int64_t rows_per_slot = std::max(kLeastRows, ceil_div(rows, kMaxSlots));
  const std::int64_t slots = ceil_div(rows, rows_per_slot);
  const unsigned col_blocks = block_count(ceil_div(cols, kBlockCols));
  auto* partials = reinterpret_cast<float*>(context.scratch(Carver::bytes<float>(slots * cols)));
  static_assert(kRowLanes * kWarp == kBlockCols);
  visit_compute(x.dtype(), [&](auto type) {
    using T = decltype(type);
    launch("column_sum", column_sum_kernel<T>,
           Grid{block_count(slots * col_blocks), kRowLanes * kWarp, 0}, context.stream(),
           rows_of<const T>(x), rows, cols, rows_per_slot, col_blocks, partials);
    combine_slots<T>(context, slots, cols, {partials, pointer_of<T>(out)});
  });
}

}  // namespace lockstep::models::ops::cuda
