#include "ops/cuda/activation_functions.cuh"
#include "ops/cuda/bodies.h"
#include "ops/cuda/pack_walk.cuh"

namespace lockstep::ops::cuda {

namespace {

// Packs of a thread by the number of operands that it reads: 64 bytes under way, of three operands
// 96.
constexpr int kUnary = 4;
constexpr int kBinary = 2;
constexpr int kTernary = 2;

template <typename T>
__global__ void __launch_bounds__(PackWalk<T>::kThreads)
    activation_forward_kernel(PackWalk<T> walk, ActivationFunction f, Rows<const T> x, Rows<T> y) {
  constexpr int kWidth = kPackWidth<T>;
  const PackPlace<T, kUnary> place(walk);
  WidePack<T> packs[kUnary];
  place.load(x, packs);
  with_activation<T>(f, [&](auto function) {
#pragma unroll
    for (int k = 0; k < kUnary; ++k) {
      float v[kWidth];
      widen(packs[k], v);
#pragma unroll
      for (int i = 0; i < kWidth; ++i)
        v[i] = function(v[i]).value;
      packs[k] = narrow<T>(v);
    }
  });
  place.store(packs, y);
}

// out = g(f(a), b), element by element.
template <typename T, typename G>
__device__ void combine_packs(const PackWalk<T>& walk, ActivationFunction f, const Rows<const T>& a,
                              const Rows<const T>& b, const Rows<T>& out, G&& g) {
  constexpr int kWidth = kPackWidth<T>;
  const PackPlace<T, kBinary> place(walk);
  WidePack<T> as[kBinary];
  WidePack<T> bs[kBinary];
  place.load(a, as);
  place.load(b, bs);
  with_activation<T>(f, [&](auto function) {
#pragma unroll
    for (int k = 0; k < kBinary; ++k) {
      float v[kWidth];
      float w[kWidth];
      widen(as[k], v);
      widen(bs[k], w);
#pragma unroll
      for (int i = 0; i < kWidth; ++i)
        v[i] = g(function(v[i]), w[i]);
      as[k] = narrow<T>(v);
    }
  });
  place.store(as, out);
}

template <typename T>
__global__ void __launch_bounds__(PackWalk<T>::kThreads)
    activation_backward_kernel(PackWalk<T> walk, ActivationFunction f, Rows<const T> x,
                               Rows<const T> dy, Rows<T> dx) {
  combine_packs(walk, f, x, dy, dx, [](ValueAndSlope at_x, float d) { return d * at_x.slope; });
}

template <typename T>
__global__ void __launch_bounds__(PackWalk<T>::kThreads)
    gated_forward_kernel(PackWalk<T> walk, ActivationFunction f, Rows<const T> gate,
                         Rows<const T> up, Rows<T> y) {
  combine_packs(walk, f, gate, up, y,
                [](ValueAndSlope at_gate, float u) { return at_gate.value * u; });
}

// The packs of gate, up and dy are read before dgate and dup are written: either may replace its
// source.
template <typename T>
__global__ void __launch_bounds__(PackWalk<T>::kThreads)
    gated_backward_kernel(PackWalk<T> walk, ActivationFunction f, Rows<const T> gate,
                          Rows<const T> up, Rows<const T> dy, Rows<T> dgate, Rows<T> dup) {
  constexpr int kWidth = kPackWidth<T>;
  const PackPlace<T, kTernary> place(walk);
  WidePack<T> gates[kTernary];
  WidePack<T> ups[kTernary];
  WidePack<T> dys[kTernary];
  place.load(gate, gates);
  place.load(up, ups);
  place.load(dy, dys);
  with_activation<T>(f, [&](auto function) {
#pragma unroll
    for (int k = 0; k < kTernary; ++k) {
      float g[kWidth];
      float u[kWidth];
      float d[kWidth];
      widen(gates[k], g);
      widen(ups[k], u);
      widen(dys[k], d);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        const ValueAndSlope both = function(g[i]);
        g[i] = d[i] * u[i] * both.slope;
        u[i] = d[i] * both.value;
      }
      gates[k] = narrow<T>(g);
      ups[k] = narrow<T>(u);
    }
  });
  place.store(gates, dgate);
  place.store(ups, dup);
}

}  // namespace

void activation_forward(OpContext& context, ActivationFunction f, ConstTensorView x, TensorView y) {
  visit_compute(x.dtype(), [&](auto type) {
    using T = decltype(type);
    const PackWalk<T> walk(x.rows(), x.cols(), kUnary, {x, y});
    launch("activation_forward", activation_forward_kernel<T>, walk.grid, context.stream(), walk, f,
           walk.template rows_of<const T>(x), walk.template rows_of<T>(y));
  });
}

void activation_backward(OpContext& context, ActivationFunction f, ConstTensorView x,
                         ConstTensorView dy, TensorView dx) {
  visit_compute(x.dtype(), [&](auto type) {
    using T = decltype(type);
    const PackWalk<T> walk(x.rows(), x.cols(), kBinary, {x, dy, dx});
    launch("activation_backward", activation_backward_kernel<T>, walk.grid, context.stream(), walk,
           f, walk.template rows_of<const T>(x), walk.template rows_of<const T>(dy),
           walk.template rows_of<T>(dx));
  });
}

void gated_activation_forward(OpContext& context, ActivationFunction f, ConstTensorView gate,
                              ConstTensorView up, TensorView y) {
  visit_compute(gate.dtype(), [&](auto type) {
    using T = decltype(type);
    const PackWalk<T> walk(gate.rows(), gate.cols(), kBinary, {gate, up, y});
    launch("gated_activation_forward", gated_forward_kernel<T>, walk.grid, context.stream(), walk,
           f, walk.template rows_of<const T>(gate), walk.template rows_of<const T>(up),
           walk.template rows_of<T>(y));
  });
}

void gated_activation_backward(OpContext& context, ActivationFunction f, ConstTensorView gate,
                               ConstTensorView up, ConstTensorView dy, TensorView dgate,
                               TensorView dup) {
  visit_compute(gate.dtype(), [&](auto type) {
    using T = decltype(type);
    const PackWalk<T> walk(gate.rows(), gate.cols(), kTernary, {gate, up, dy, dgate, dup});
    launch("gated_activation_backward", gated_backward_kernel<T>, walk.grid, context.stream(), walk,
           f, walk.template rows_of<const T>(gate), walk.template rows_of<const T>(up),
           walk.template rows_of<const T>(dy), walk.template rows_of<T>(dgate),
           walk.template rows_of<T>(dup));
  });
}

}  // namespace lockstep::ops::cuda
