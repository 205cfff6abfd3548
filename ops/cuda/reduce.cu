#include "ops/cuda/bodies.h"
#include "ops/cuda/packs.cuh"
#include "ops/cuda/reduce.cuh"

namespace lockstep::ops::cuda {

namespace {

constexpr int kRowLanes = 8;                        // rows that a block reads at a time
constexpr std::int64_t kBlockCols = kWarp * kLane;  // columns of a block
constexpr std::int64_t kMaxSlots = 128;             // parts that the rows are cut into
constexpr std::int64_t kLeastRows = 4 * kRowLanes;  // of a part

// Rows that a thread asks for at once: 128 bytes of its columns, and half where it reads element by
// element, which takes more registers.
template <typename T, bool kWhole>
struct RowBatch {
  static constexpr int kRows = (kWhole ? 16 : 8) / sizeof(T);
  Raw<T> rows[kRows];

  __device__ void fetch_rows(const Rows<const T>& x, std::int64_t first, std::int64_t end,
                             std::int64_t col, std::int64_t count) {
#pragma unroll
    for (int b = 0; b < kRows; ++b) {
      const std::int64_t r = first + b * kRowLanes;
      rows[b] = fetch<kWhole>(x.row(r) + col, r < end ? count : 0);
    }
  }
  __device__ void add_to(float (&sum)[kLane]) const {
#pragma unroll
    for (int b = 0; b < kRows; ++b) {
      float v[kLane];
      unpack(rows[b], v);
#pragma unroll
      for (int i = 0; i < kLane; ++i)
        sum[i] += v[i];
    }
  }
};

// partials[slot, c] = the sum of column c over the rows of one part. The next rows are asked for
// before the present ones are added, or the compiler would put each load next to its use.
template <typename T, bool kWhole>
__global__ void __launch_bounds__(kRowLanes* kWarp, 3)
    column_sum_kernel(Rows<const T> x, std::int64_t rows, std::int64_t cols,
                      std::int64_t rows_per_slot, unsigned col_blocks, float* partials) {
  LOCKSTEP_SHARED(float, sums, kRowLanes* kBlockCols);
  const int lane = lane_of_thread();
  const int row_lane = warp_of_thread();
  const std::int64_t slot = blockIdx.x / col_blocks;
  const std::int64_t col = blockIdx.x % col_blocks * kBlockCols + lane * kLane;
  const std::int64_t begin = slot * rows_per_slot;
  const std::int64_t end = begin + rows_per_slot < rows ? begin + rows_per_slot : rows;
  constexpr std::int64_t kStep = std::int64_t{kRowLanes} * RowBatch<T, kWhole>::kRows;
  float sum[kLane] = {};
  RowBatch<T, kWhole> next;
  next.fetch_rows(x, begin + row_lane, end, col, cols - col);
  for (std::int64_t first = begin + row_lane; first < end; first += kStep) {
    const RowBatch<T, kWhole> batch = next;
    next.fetch_rows(x, first + kStep, end, col, cols - col);
    batch.add_to(sum);
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
    const Rows<const T> from = rows_of<const T>(x);
    const bool whole = from.aligned && cols % kLane == 0;
    launch("column_sum", whole ? column_sum_kernel<T, true> : column_sum_kernel<T, false>,
           Grid{block_count(slots * col_blocks), kRowLanes * kWarp, 0}, context.stream(), from,
           rows, cols, rows_per_slot, col_blocks, partials);
    combine_slots<T>(context, slots, cols, {partials, pointer_of<T>(out)});
  });
}

}  // namespace lockstep::ops::cuda
