#include <algorithm>
#include <array>

#include "ops/cpu/bodies.h"
#include "ops/cpu/row_sums.h"
#include "ops/cpu/scratch_sizes.h"
#include "ops/cpu/tiles.h"

namespace lockstep::ops::cpu {

using core::AccumulateT;
using core::ConstTensorView;
using core::TensorView;

namespace {

template <typename T>
using Tile = std::array<AccumulateT<T>, kTile>;

// Dropout factors of elements [col, col + n) of row `row` of a [B*T, cols] tensor.
void row_factors(const Dropout& dropout, std::int64_t row, std::int64_t col, std::int64_t cols,
                 std::int64_t n, float* out) {
  const std::int64_t sequence = dropout.first_sequence + row / dropout.sequence_rows;
  dropout_factors(dropout, sequence, (row % dropout.sequence_rows) * cols + col, n, out);
}

template <typename T>
AccumulateT<T> gate_value(const ConstTensorView& gate) {
  return gate.empty() ? AccumulateT<T>(1) : static_cast<AccumulateT<T>>(*gate.data<T>());
}

template <typename T>
void forward(OpContext& context, const ConstTensorView& x, const ConstTensorView& branch,
             const ConstTensorView& gate, const Dropout& dropout, const TensorView& y) {
  using A = AccumulateT<T>;
  const A g = gate_value<T>(gate);
  const bool flat = !dropout.active() && x.contiguous() && branch.contiguous() && y.contiguous();
  for_each_tile(context, x.rows(), x.cols(), flat,
                [&](std::int64_t row, std::int64_t col, std::int64_t n, std::int64_t) {
                  Tile<T> x_tile, branch_tile;
                  std::array<float, kTile> factors;
                  const A* a = row_values(x.row<T>(row) + col, x_tile.data(), n);
                  const A* b = row_values(branch.row<T>(row) + col, branch_tile.data(), n);
                  A* target = row_target(y.row<T>(row) + col, x_tile.data());
                  if (dropout.active()) {
                    row_factors(dropout, row, col, x.cols(), n, factors.data());
#pragma omp simd
                    for (std::int64_t i = 0; i < n; ++i)
                      target[i] =
                          a[i] + g * (b[i] * static_cast<A>(factors[static_cast<std::size_t>(i)]));
                  } else {
#pragma omp simd
                    for (std::int64_t i = 0; i < n; ++i)
                      target[i] = a[i] + g * b[i];
                  }
                  store_row(target, y.row<T>(row) + col, n);
                });
}

// dbranch of one tile and, with a gate, the tile's share of dgate.
template <typename A>
A backward_tile(const A* dy, const A* branch, const float* factors, A gate, std::int64_t n,
                A* dbranch) {
  A sum{};
  if (branch != nullptr)
    sum = sum_over<A>(
        n, [=](std::int64_t i) { return dy[i] * (branch[i] * static_cast<A>(factors[i])); });
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i)
    dbranch[i] = gate * (dy[i] * static_cast<A>(factors[i]));
  return sum;
}

template <typename T>
void backward(OpContext& context, const ConstTensorView& dy, const ConstTensorView& branch,
              const ConstTensorView& gate, const Dropout& dropout, const TensorView& dbranch,
              const TensorView& dgate) {
  using A = AccumulateT<T>;
  const A g = gate_value<T>(gate);
  const bool flat = !dropout.active() && dy.contiguous() && dbranch.contiguous() &&
                    (gate.empty() || branch.contiguous());
  const std::int64_t chunks = tile_chunk_count(dy.rows(), dy.cols(), flat);
  double* sums =
      Carver<double>(context.scratch(residual_backward_scratch(dy.rows(), dy.cols(), flat)))
          .take(1, chunks);
  std::fill_n(sums, chunks, 0.0);
  for_each_tile(
      context, dy.rows(), dy.cols(), flat,
      [&](std::int64_t row, std::int64_t col, std::int64_t n, std::int64_t chunk) {
        Tile<T> dy_tile, branch_tile;
        std::array<float, kTile> factors;
        if (dropout.active())
          row_factors(dropout, row, col, dy.cols(), n, factors.data());
        else
          std::fill_n(factors.data(), n, 1.0F);
        const A* from = row_values(dy.row<T>(row) + col, dy_tile.data(), n);
        const A* b =
            gate.empty() ? nullptr : row_values(branch.row<T>(row) + col, branch_tile.data(), n);
        A* target = row_target(dbranch.row<T>(row) + col, dy_tile.data());
        sums[chunk] += static_cast<double>(backward_tile(from, b, factors.data(), g, n, target));
        store_row(target, dbranch.row<T>(row) + col, n);
      });
  if (gate.empty()) return;
  double sum = 0.0;
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk)
    sum += sums[chunk];
  *dgate.data<T>() = static_cast<T>(static_cast<A>(sum));
}

}  // namespace

void residual_forward(OpContext& context, ConstTensorView x, ConstTensorView branch,
                      ConstTensorView gate, const Dropout& dropout, TensorView y) {
  core::visit_floating(
      x.dtype(), [&](auto type) { forward<decltype(type)>(context, x, branch, gate, dropout, y); });
}

std::size_t residual_backward_scratch(std::int64_t rows, std::int64_t cols, bool flat) {
  return Carver<double>::bytes(1, tile_chunk_count(rows, cols, flat));
}

void residual_backward(OpContext& context, ConstTensorView dy, ConstTensorView branch,
                       ConstTensorView gate, const Dropout& dropout, TensorView dbranch,
                       TensorView dgate) {
  core::visit_floating(dy.dtype(), [&](auto type) {
    backward<decltype(type)>(context, dy, branch, gate, dropout, dbranch, dgate);
  });
}

}  // namespace lockstep::ops::cpu
