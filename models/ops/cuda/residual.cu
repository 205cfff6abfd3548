#include "models/ops/cuda/bodies.h"
#include "models/ops/cuda/dropout.cuh"
#include "models/ops/cuda/flat.cuh"

namespace lockstep::models::ops::cuda {

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

// The same without dropout, of whole packs. y may be x or branch: a thread reads what it writes
// first.
template <typename T>
__global__ void __launch_bounds__(kFlatThreads)
    flat_residual_kernel(FlatWalk walk, Rows<const T> x, Rows<const T> branch, const T* gate,
                         Rows<T> y) {
  Raw<T> xs[kFlatPacks];
  Raw<T> branches[kFlatPacks];
#pragma unroll
  for (int k = 0; k < kFlatPacks; ++k) {
    xs[k] = walk.fetch_pack(x, k);
    branches[k] = walk.fetch_pack(branch, k);
  }
  const float g = gate_value(gate);
#pragma unroll
  for (int k = 0; k < kFlatPacks; ++k) {
    float a[kLane];
    float b[kLane];
    unpack(xs[k], a);
    unpack(branches[k], b);
#pragma unroll
    for (int i = 0; i < kLane; ++i)
      a[i] = a[i] + g * b[i];
    walk.put_pack(a, y, k);
  }
}

template <typename T>
__global__ void __launch_bounds__(kFlatThreads)
    flat_copy_kernel(FlatWalk walk, Rows<const T> x, Rows<T> y) {
  Raw<T> packs[kFlatPacks];
#pragma unroll
  for (int k = 0; k < kFlatPacks; ++k)
    packs[k] = walk.fetch_pack(x, k);
#pragma unroll
  for (int k = 0; k < kFlatPacks; ++k) {
    float v[kLane];
    unpack(packs[k], v);
    walk.put_pack(v, y, k);
  }
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
  const Walk walk(x.rows(), x.cols(), all_contiguous({x, branch, y}));
  visit_compute(x.dtype(), [&](auto type) {
    using T = decltype(type);
    const Rows<const T> from = walk.rows_of<const T>(x);
    const Rows<const T> added = walk.rows_of<const T>(branch);
    const Rows<T> to = walk.rows_of<T>(y);
    const T* g = pointer_of<const T>(gate);
    const FlatWalk flat(walk, from, added, to);
    if (flat.packs > 0 && !dropout.active()) {
      launch("residual_forward", flat_residual_kernel<T>, flat.grid(), context.stream(), flat, from,
             added, g, to);
      return;
    }
    launch("residual_forward", residual_forward_kernel<T>, walk.grid(), context.stream(), walk,
           from, added, g, rule_of(dropout, x.cols()), to);
  });
}

void residual_backward(OpContext& context, ConstTensorView dy, ConstTensorView branch,
                       ConstTensorView gate, const Dropout& dropout, TensorView dbranch,
                       TensorView dgate) {
  const bool gated = !gate.empty();
  const bool copies = !gated && !dropout.active();
  if (copies && dy.raw() == dbranch.raw()) return;
  const Walk walk(dy.rows(), dy.cols(),
                  all_contiguous({dy, dbranch}) && (!gated || branch.contiguous()));
  const Grid grid = walk.grid();
  auto* sums = gated
                   ? reinterpret_cast<double*>(context.scratch(Carver::bytes<double>(grid.blocks)))
                   : nullptr;
  visit_compute(dy.dtype(), [&](auto type) {
    using T = decltype(type);
    const Rows<const T> from = walk.rows_of<const T>(dy);
    const Rows<T> to = walk.rows_of<T>(dbranch);
    const FlatWalk flat(walk, from, to);
    if (copies && flat.packs > 0) {
      launch("residual_backward", flat_copy_kernel<T>, flat.grid(), context.stream(), flat, from,
             to);
      return;
    }
    launch("residual_backward", residual_backward_kernel<T>, grid, context.stream(), walk, from,
           walk.rows_of<const T>(branch), pointer_of<const T>(gate), rule_of(dropout, dy.cols()),
           to, sums);
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

}  // namespace lockstep::models::ops::cuda
