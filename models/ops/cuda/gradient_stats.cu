#include <bit>

#include "models/ops/cuda/bodies.h"
#include "models/ops/cuda/op_kernel.cuh"

namespace lockstep::models::ops::cuda {

namespace {

struct Counts {
  std::int64_t inf;
  std::int64_t nan;
};

// Calls of combine_block on both numbers.
__device__ Counts combine_counts(std::int64_t inf, std::int64_t nan, std::int64_t* room) {
  const std::int64_t all_inf = combine_block(inf, AddOf{}, room);
  return {all_inf, combine_block(nan, AddOf{}, room)};
}

template <typename T>
__global__ void count_nonfinite_kernel(Walk walk, Rows<const T> x, Counts* counts) {
  LOCKSTEP_SHARED(std::int64_t, room, kWarp);
  const Piece p(walk);
  float v[kLane];
  load(x.row(p.row) + p.col, p.count, x.aligned, v);
  int inf = 0;
  int nan = 0;
#pragma unroll
  for (int i = 0; i < kLane; ++i) {
    const std::uint32_t magnitude = std::bit_cast<std::uint32_t>(v[i]) & 0x7fffffffU;
    inf += magnitude == 0x7f800000U ? 1 : 0;
    nan += magnitude > 0x7f800000U ? 1 : 0;
  }
  const Counts total = combine_counts(inf, nan, room);
  if (threadIdx.x == 0) counts[blockIdx.x] = total;
}

constexpr unsigned kSumThreads = 256;

__global__ void sum_counts_kernel(const Counts* counts, std::int64_t blocks, Counts* out) {
  LOCKSTEP_SHARED(std::int64_t, room, kWarp);
  std::int64_t inf = 0;
  std::int64_t nan = 0;
  for (std::int64_t b = threadIdx.x; b < blocks; b += kSumThreads) {
    inf += counts[b].inf;
    nan += counts[b].nan;
  }
  const Counts total = combine_counts(inf, nan, room);
  if (threadIdx.x == 0) *out = total;
}

constexpr int kSumLanes = 16;  // of a block of 64 elements, as on the CPU
constexpr unsigned kSquareThreads = 256;

// Lane j of 16 adds the squares of elements j, j + 16, j + 32, j + 48; the lanes are added
// pairwise: the order of the CPU, and squares of fp32 are exact in fp64, so the bits are the same.
template <typename T>
__global__ void block_sums_kernel(const T* x, std::int64_t n, double* blocks) {
  const std::int64_t block =
      (static_cast<std::int64_t>(blockIdx.x) * kSquareThreads + threadIdx.x) / kSumLanes;
  const std::int64_t lane = threadIdx.x % kSumLanes;
  double sum = 0.0;
  for (std::int64_t k = 0; k < kNormBlock / kSumLanes; ++k) {
    const std::int64_t i = block * kNormBlock + k * kSumLanes + lane;
    const double v = i < n ? static_cast<double>(to_float(x[i])) : 0.0;
    sum += v * v;
  }
  for (int width = kSumLanes / 2; width > 0; width /= 2)
    sum += shuffle_xor(sum, width);
  if (lane == 0 && block * kNormBlock < n) blocks[block] = sum;
}

}  // namespace

NonFinite count_nonfinite(OpContext& context, ConstTensorView x) {
  const Walk walk(x.rows(), x.cols(), x.contiguous());
  const Grid grid = walk.grid();
  if (grid.blocks == 0) return {};
  Carver carver(context.scratch(Carver::bytes<Counts>(grid.blocks) + Carver::bytes<Counts>(1)));
  auto* counts = carver.take<Counts>(grid.blocks);
  auto* total = carver.take<Counts>(1);
  visit_compute(x.dtype(), [&](auto type) {
    using T = decltype(type);
    launch("count_nonfinite", count_nonfinite_kernel<T>, grid, context.stream(), walk,
           walk.rows_of<const T>(x), counts);
  });
  launch("sum_counts", sum_counts_kernel, Grid{1, kSumThreads, 0}, context.stream(),
         static_cast<const Counts*>(counts), static_cast<std::int64_t>(grid.blocks), total);
  Counts result{};
  context.stream().to_host(&result, total, sizeof(result));
  return {result.inf, result.nan};
}

void block_sums_of_squares(OpContext& context, ConstTensorView x, double* blocks) {
  const std::int64_t n = x.elements();
  const std::int64_t sums = ceil_div(n, kNormBlock);
  check_device_range(blocks, static_cast<std::size_t>(sums) * sizeof(double));
  const Grid grid{block_count(ceil_div(sums * kSumLanes, kSquareThreads)), kSquareThreads, 0};
  visit_compute(x.dtype(), [&](auto type) {
    using T = decltype(type);
    launch("block_sums_of_squares", block_sums_kernel<T>, grid, context.stream(),
           pointer_of<const T>(x), n, blocks);
  });
}

}  // namespace lockstep::models::ops::cuda
