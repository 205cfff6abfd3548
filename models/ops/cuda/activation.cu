#include "models/ops/cuda/activation_functions.cuh"
#include "models/ops/cuda/bodies.h"

namespace lockstep::models::ops::cuda {

namespace {

template <typename T>
__global__ void activation_forward_kernel(Walk walk, ActivationFunction f, Rows<const T> x,
                                          Rows<T> y) {
  const Piece p(walk);
  if (p.count <= 0) return;
  float v[kLane];
  load(x.row(p.row) + p.col, p.count, x.aligned, v);
  with_activation(f, [&](auto function) {
#pragma unroll
    for (int i = 0; i < kLane; ++i)
      v[i] = function(v[i]).value;
  });
  store(v, p.count, y.aligned, y.row(p.row) + p.col);
}

template <typename T>
__global__ void activation_backward_kernel(Walk walk, ActivationFunction f, Rows<const T> x,
                                           Rows<const T> dy, Rows<T> dx) {
  const Piece p(walk);
  if (p.count <= 0) return;
  float v[kLane];
  float d[kLane];
  load(x.row(p.row) + p.col, p.count, x.aligned, v);
  load(dy.row(p.row) + p.col, p.count, dy.aligned, d);
  with_activation(f, [&](auto function) {
#pragma unroll
    for (int i = 0; i < kLane; ++i)
      d[i] *= function(v[i]).slope;
  });
  store(d, p.count, dx.aligned, dx.row(p.row) + p.col);
}

template <typename T>
__global__ void gated_forward_kernel(Walk walk, ActivationFunction f, Rows<const T> gate,
                                     Rows<const T> up, Rows<T> y) {
  const Piece p(walk);
  if (p.count <= 0) return;
  float g[kLane];
  float u[kLane];
  load(gate.row(p.row) + p.col, p.count, gate.aligned, g);
  load(up.row(p.row) + p.col, p.count, up.aligned, u);
  with_activation(f, [&](auto function) {
#pragma unroll
    for (int i = 0; i < kLane; ++i)
      g[i] = function(g[i]).value * u[i];
  });
  store(g, p.count, y.aligned, y.row(p.row) + p.col);
}

// A piece of gate, up and dy is read before dgate and dup are written: either may replace its
// source.
template <typename T>
__global__ void gated_backward_kernel(Walk walk, ActivationFunction f, Rows<const T> gate,
                                      Rows<const T> up, Rows<const T> dy, Rows<T> dgate,
                                      Rows<T> dup) {
  const Piece p(walk);
  if (p.count <= 0) return;
  float g[kLane];
  float u[kLane];
  float d[kLane];
  load(gate.row(p.row) + p.col, p.count, gate.aligned, g);
  load(up.row(p.row) + p.col, p.count, up.aligned, u);
  load(dy.row(p.row) + p.col, p.count, dy.aligned, d);
  with_activation(f, [&](auto function) {
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      const ValueAndSlope both = function(g[i]);
      g[i] = d[i] * u[i] * both.slope;
      u[i] = d[i] * both.value;
    }
  });
  store(g, p.count, dgate.aligned, dgate.row(p.row) + p.col);
  store(u, p.count, dup.aligned, dup.row(p.row) + p.col);
}

}  // namespace

void activation_forward(OpContext& context, ActivationFunction f, ConstTensorView x, TensorView y) {
  const Walk walk(x.rows(), x.cols(), all_contiguous({x, y}));
  visit_compute(x.dtype(), [&](auto type) {
    using T = decltype(type);
    launch("activation_forward", activation_forward_kernel<T>, walk.grid(), context.stream(), walk,
           f, walk.rows_of<const T>(x), walk.rows_of<T>(y));
  });
}

void activation_backward(OpContext& context, ActivationFunction f, ConstTensorView x,
                         ConstTensorView dy, TensorView dx) {
  const Walk walk(x.rows(), x.cols(), all_contiguous({x, dy, dx}));
  visit_compute(x.dtype(), [&](auto type) {
    using T = decltype(type);
    launch("activation_backward", activation_backward_kernel<T>, walk.grid(), context.stream(),
           walk, f, walk.rows_of<const T>(x), walk.rows_of<const T>(dy), walk.rows_of<T>(dx));
  });
}

void gated_activation_forward(OpContext& context, ActivationFunction f, ConstTensorView gate,
                              ConstTensorView up, TensorView y) {
  const Walk walk(gate.rows(), gate.cols(), all_contiguous({gate, up, y}));
  visit_compute(gate.dtype(), [&](auto type) {
    using T = decltype(type);
    launch("gated_activation_forward", gated_forward_kernel<T>, walk.grid(), context.stream(), walk,
           f, walk.rows_of<const T>(gate), walk.rows_of<const T>(up), walk.rows_of<T>(y));
  });
}

void gated_activation_backward(OpContext& context, ActivationFunction f, ConstTensorView gate,
                               ConstTensorView up, ConstTensorView dy, TensorView dgate,
                               TensorView dup) {
  const Walk walk(gate.rows(), gate.cols(), all_contiguous({gate, up, dy, dgate, dup}));
  visit_compute(gate.dtype(), [&](auto type) {
    using T = decltype(type);
    launch("gated_activation_backward", gated_backward_kernel<T>, walk.grid(), context.stream(),
           walk, f, walk.rows_of<const T>(gate), walk.rows_of<const T>(up),
           walk.rows_of<const T>(dy), walk.rows_of<T>(dgate), walk.rows_of<T>(dup));
  });
}

}  // namespace lockstep::models::ops::cuda
