#include <array>

#include "ops/cpu/activation_functions.h"
#include "ops/cpu/bodies.h"
#include "ops/cpu/row_io.h"
#include "ops/cpu/tiles.h"

namespace lockstep::ops::cpu {

using core::AccumulateT;
using core::ConstTensorView;
using core::TensorView;

namespace {

template <typename T>
using Tile = std::array<AccumulateT<T>, kTile>;

template <typename T, typename F>
void forward(OpContext& context, const ConstTensorView& x, const TensorView& y) {
  using A = AccumulateT<T>;
  for_each_tile(context, x.rows(), x.cols(), x.contiguous() && y.contiguous(),
                [&](std::int64_t row, std::int64_t col, std::int64_t n, std::int64_t) {
                  Tile<T> tile;
                  const A* from = row_values(x.row<T>(row) + col, tile.data(), n);
                  A* to = row_target(y.row<T>(row) + col, tile.data());
#pragma omp simd
                  for (std::int64_t i = 0; i < n; ++i)
                    to[i] = F::both(from[i]).value;
                  store_row(to, y.row<T>(row) + col, n);
                });
}

template <typename T, typename F>
void backward(OpContext& context, const ConstTensorView& x, const ConstTensorView& dy,
              const TensorView& dx) {
  using A = AccumulateT<T>;
  const bool flat = x.contiguous() && dy.contiguous() && dx.contiguous();
  for_each_tile(context, x.rows(), x.cols(), flat,
                [&](std::int64_t row, std::int64_t col, std::int64_t n, std::int64_t) {
                  Tile<T> x_tile, dy_tile;
                  const A* at = row_values(x.row<T>(row) + col, x_tile.data(), n);
                  const A* from = row_values(dy.row<T>(row) + col, dy_tile.data(), n);
                  A* to = row_target(dx.row<T>(row) + col, dy_tile.data());
#pragma omp simd
                  for (std::int64_t i = 0; i < n; ++i)
                    to[i] = from[i] * F::both(at[i]).slope;
                  store_row(to, dx.row<T>(row) + col, n);
                });
}

template <typename T, typename F>
void gated_forward(OpContext& context, const ConstTensorView& gate, const ConstTensorView& up,
                   const TensorView& y) {
  using A = AccumulateT<T>;
  const bool flat = gate.contiguous() && up.contiguous() && y.contiguous();
  for_each_tile(context, gate.rows(), gate.cols(), flat,
                [&](std::int64_t row, std::int64_t col, std::int64_t n, std::int64_t) {
                  Tile<T> gate_tile, up_tile;
                  const A* g = row_values(gate.row<T>(row) + col, gate_tile.data(), n);
                  const A* u = row_values(up.row<T>(row) + col, up_tile.data(), n);
                  A* to = row_target(y.row<T>(row) + col, gate_tile.data());
#pragma omp simd
                  for (std::int64_t i = 0; i < n; ++i)
                    to[i] = F::both(g[i]).value * u[i];
                  store_row(to, y.row<T>(row) + col, n);
                });
}

// Reads gate, up and dy of an element before it writes dgate and dup: either may replace its
// source.
template <typename T, typename F>
void gated_backward(OpContext& context, const ConstTensorView& gate, const ConstTensorView& up,
                    const ConstTensorView& dy, const TensorView& dgate, const TensorView& dup) {
  using A = AccumulateT<T>;
  const bool flat = gate.contiguous() && up.contiguous() && dy.contiguous() && dgate.contiguous() &&
                    dup.contiguous();
  for_each_tile(context, gate.rows(), gate.cols(), flat,
                [&](std::int64_t row, std::int64_t col, std::int64_t n, std::int64_t) {
                  Tile<T> gate_tile, up_tile, dy_tile;
                  const A* g = row_values(gate.row<T>(row) + col, gate_tile.data(), n);
                  const A* u = row_values(up.row<T>(row) + col, up_tile.data(), n);
                  const A* from = row_values(dy.row<T>(row) + col, dy_tile.data(), n);
                  A* to_gate = row_target(dgate.row<T>(row) + col, gate_tile.data());
                  A* to_up = row_target(dup.row<T>(row) + col, up_tile.data());
#pragma omp simd
                  for (std::int64_t i = 0; i < n; ++i) {
                    const ValueAndSlope<A> f = F::both(g[i]);
                    const A d = from[i];
                    const A through = d * u[i];
                    to_gate[i] = through * f.slope;
                    to_up[i] = d * f.value;
                  }
                  store_row(to_gate, dgate.row<T>(row) + col, n);
                  store_row(to_up, dup.row<T>(row) + col, n);
                });
}

// Calls body(T{}, F{}) for the element type and the function.
template <typename B>
void visit(core::DType dtype, ActivationFunction f, B&& body) {
  core::visit_floating(
      dtype, [&](auto type) { visit_activation(f, [&](auto function) { body(type, function); }); });
}

}  // namespace

void activation_forward(OpContext& context, ActivationFunction f, ConstTensorView x, TensorView y) {
  visit(x.dtype(), f, [&](auto type, auto function) {
    forward<decltype(type), decltype(function)>(context, x, y);
  });
}

void activation_backward(OpContext& context, ActivationFunction f, ConstTensorView x,
                         ConstTensorView dy, TensorView dx) {
  visit(x.dtype(), f, [&](auto type, auto function) {
    backward<decltype(type), decltype(function)>(context, x, dy, dx);
  });
}

void gated_activation_forward(OpContext& context, ActivationFunction f, ConstTensorView gate,
                              ConstTensorView up, TensorView y) {
  visit(gate.dtype(), f, [&](auto type, auto function) {
    gated_forward<decltype(type), decltype(function)>(context, gate, up, y);
  });
}

void gated_activation_backward(OpContext& context, ActivationFunction f, ConstTensorView gate,
                               ConstTensorView up, ConstTensorView dy, TensorView dgate,
                               TensorView dup) {
  visit(gate.dtype(), f, [&](auto type, auto function) {
    gated_backward<decltype(type), decltype(function)>(context, gate, up, dy, dgate, dup);
  });
}

}  // namespace lockstep::ops::cpu
