#include "ops/cuda/bodies.h"
#include "ops/cuda/dropout.cuh"
#include "ops/cuda/pack_walk.cuh"

namespace lockstep::ops::cuda {

namespace {

template <typename T>
__device__ float gate_value(const T* gate) {
  return gate == nullptr ? 1.0F : to_float(*gate);
}

// factors of the piece at row and column of a tensor `cols` wide
__device__ void factors_at(const DropoutRule& dropout, const Piece& p, std::int64_t cols,
                           float (&factors)[kLane]) {
  if (dropout.active) {
    dropout.piece(p.row * cols + p.col, factors);
    return;
  }
#pragma unroll
  for (int i = 0; i < kLane; ++i)
    factors[i] = 1.0F;
}

template <typename T>
__global__ void residual_forward_kernel(Walk walk, Rows<const T> x, Rows<const T> branch,
                                        const T* gate, DropoutRule dropout, Rows<T> y) {
  const Piece p(walk);
  if (p.count <= 0) return;
  const float g = gate_value(gate);
  float a[kLane];
  float b[kLane];
  float factors[kLane];
  load(x.row(p.row) + p.col, p.count, x.aligned, a);
  load(branch.row(p.row) + p.col, p.count, branch.aligned, b);
  factors_at(dropout, p, walk.cols, factors);
#pragma unroll
  for (int i = 0; i < kLane; ++i)
    a[i] = a[i] + g * (b[i] * factors[i]);
  store(a, p.count, y.aligned, y.row(p.row) + p.col);
}

constexpr int kResidualPacks = 4;

// The same without dropout. y may be x or branch: a thread reads first what it writes.
template <typename T>
__global__ void __launch_bounds__(PackWalk<T>::kThreads)
    residual_packs_kernel(PackWalk<T> walk, Rows<const T> x, Rows<const T> branch, const T* gate,
                          Rows<T> y) {
  const PackPlace<T, kResidualPacks> at(walk);
  WidePack<T> packs[kResidualPacks];
  WidePack<T> added[kResidualPacks];
  at.load(x, packs);
  at.load(branch, added);
  const float g = gate_value(gate);
#pragma unroll
  for (int k = 0; k < kResidualPacks; ++k) {
    float a[kPackWidth<T>];
    float b[kPackWidth<T>];
    widen(packs[k], a);
    widen(added[k], b);
#pragma unroll
    for (int i = 0; i < kPackWidth<T>; ++i)
      a[i] = a[i] + g * b[i];
    packs[k] = narrow<T>(a);
  }
  at.store(packs, y);
}

template <typename T>
__global__ void __launch_bounds__(PackWalk<T>::kThreads)
    copy_packs_kernel(PackWalk<T> walk, Rows<const T> x, Rows<T> y) {
  const PackPlace<T, kResidualPacks> at(walk);
  WidePack<T> packs[kResidualPacks];
  at.load(x, packs);
  at.store(packs, y);
}

// Without a gate branch is null, and nothing is summed.
template <typename T>
__global__ void residual_backward_kernel(Walk walk, Rows<const T> dy, Rows<const T> branch,
                                         const T* gate, DropoutRule dropout, Rows<T> dbranch,
                                         double* block_sums) {
  LOCKSTEP_SHARED(double, room, kWarp);
  const Piece p(walk);
  const float g = gate_value(gate);
  float d[kLane];
  float b[kLane];
  float factors[kLane];
  float sum = 0.0F;
  load(dy.row(p.row) + p.col, p.count, dy.aligned, d);
  if (p.count > 0) factors_at(dropout, p, walk.cols, factors);
  if (gate != nullptr) {
    load(branch.row(p.row) + p.col, p.count, branch.aligned, b);
#pragma unroll
    for (int i = 0; i < kLane; ++i)
      if (i < p.count) sum += d[i] * (b[i] * factors[i]);
  }
#pragma unroll
  for (int i = 0; i < kLane; ++i)
    if (i < p.count) d[i] = g * (d[i] * factors[i]);
  store(d, p.count, dbranch.aligned, dbranch.row(p.row) + p.col);
  if (gate == nullptr) return;
  const double total = combine_block(static_cast<double>(sum), AddOf{}, room);
  if (threadIdx.x == 0) block_sums[blockIdx.x] = total;
}

constexpr unsigned kSumThreads = 256;

template <typename T>
__global__ void sum_blocks_kernel(const double* block_sums, std::int64_t blocks, T* out) {
  LOCKSTEP_SHARED(double, room, kWarp);
  double sum = 0.0;
  for (std::int64_t b = threadIdx.x; b < blocks; b += kSumThreads)
    sum += block_sums[b];
  sum = combine_block(sum, AddOf{}, room);
  if (threadIdx.x == 0) *out = from_float<T>(static_cast<float>(sum));
}

template <typename T>
__global__ void dropout_kernel(Walk walk, Rows<const T> x, DropoutRule dropout, Rows<T> y) {
  const Piece p(walk);
  if (p.count <= 0) return;
  float v[kLane];
  float factors[kLane];
  load(x.row(p.row) + p.col, p.count, x.aligned, v);
  factors_at(dropout, p, walk.cols, factors);
#pragma unroll
  for (int i = 0; i < kLane; ++i)
    v[i] *= factors[i];
  store(v, p.count, y.aligned, y.row(p.row) + p.col);
}

DropoutRule rule_of(const Dropout& dropout, std::int64_t cols) {
  return DropoutRule(dropout, dropout.sequence_rows * cols);
}

}  // namespace

void residual_forward(OpContext& context, ConstTensorView x, ConstTensorView branch,
                      ConstTensorView gate, const Dropout& dropout, TensorView y) {
  visit_compute(x.dtype(), [&](auto type) {
    using T = decltype(type);
    if (!dropout.active()) {
      const PackWalk<T> walk(x.rows(), x.cols(), kResidualPacks, {x, branch, y});
      launch("residual_forward", residual_packs_kernel<T>, walk.grid, context.stream(), walk,
             walk.template rows_of<const T>(x), walk.template rows_of<const T>(branch),
             pointer_of<const T>(gate), walk.template rows_of<T>(y));
      return;
    }
    const Walk walk(x.rows(), x.cols(), all_contiguous({x, branch, y}));
    launch("residual_forward", residual_forward_kernel<T>, walk.grid(), context.stream(), walk,
           walk.rows_of<const T>(x), walk.rows_of<const T>(branch), pointer_of<const T>(gate),
           rule_of(dropout, x.cols()), walk.rows_of<T>(y));
  });
}

namespace {

// dbranch = dy: backward without gate and dropout.
void copy_gradient(OpContext& context, ConstTensorView dy, TensorView dbranch) {
  if (dy.raw() == dbranch.raw()) return;
  visit_compute(dy.dtype(), [&](auto type) {
    using T = decltype(type);
    const PackWalk<T> walk(dy.rows(), dy.cols(), kResidualPacks, {dy, dbranch});
    launch("residual_backward", copy_packs_kernel<T>, walk.grid, context.stream(), walk,
           walk.template rows_of<const T>(dy), walk.template rows_of<T>(dbranch));
  });
}

}  // namespace

void residual_backward(OpContext& context, ConstTensorView dy, ConstTensorView branch,
                       ConstTensorView gate, const Dropout& dropout, TensorView dbranch,
                       TensorView dgate) {
  const bool gated = !gate.empty();
  if (!gated && !dropout.active()) return copy_gradient(context, dy, dbranch);
  const Walk walk(dy.rows(), dy.cols(),
                  all_contiguous({dy, dbranch}) && (!gated || branch.contiguous()));
  const Grid grid = walk.grid();
  auto* sums = gated
                   ? reinterpret_cast<double*>(context.scratch(Carver::bytes<double>(grid.blocks)))
                   : nullptr;
  visit_compute(dy.dtype(), [&](auto type) {
    using T = decltype(type);
    launch("residual_backward", residual_backward_kernel<T>, grid, context.stream(), walk,
           walk.rows_of<const T>(dy), walk.rows_of<const T>(branch), pointer_of<const T>(gate),
           rule_of(dropout, dy.cols()), walk.rows_of<T>(dbranch), sums);
    if (!gated) return;
    launch("sum_blocks", sum_blocks_kernel<T>, Grid{1, kSumThreads, 0}, context.stream(),
           static_cast<const double*>(sums), static_cast<std::int64_t>(grid.blocks),
           pointer_of<T>(dgate));
  });
}

void dropout(OpContext& context, ConstTensorView x, const Dropout& dropout, TensorView y) {
  if (!dropout.active() && x.raw() == y.raw()) return;
  const Walk walk(x.rows(), x.cols(), all_contiguous({x, y}));
  visit_compute(x.dtype(), [&](auto type) {
    using T = decltype(type);
    launch("dropout", dropout_kernel<T>, walk.grid(), context.stream(), walk,
           walk.rows_of<const T>(x), rule_of(dropout, x.cols()), walk.rows_of<T>(y));
  });
}

}  // namespace lockstep::ops::cuda
