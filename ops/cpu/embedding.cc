#include <algorithm>
#include <array>

#include "ops/cpu/bodies.h"
#include "ops/cpu/row_io.h"
#include "ops/cpu/scratch_sizes.h"
#include "ops/cpu/tiles.h"

namespace lockstep::ops::cpu {

using core::AccumulateT;
using core::ConstTensorView;
using core::TensorView;

namespace {

template <typename T>
using Tile = std::array<AccumulateT<T>, kTile>;

// sum[0, n) += from[0, n)
template <typename T>
void accumulate(const T* from, std::int64_t n, AccumulateT<T>* sum) {
  Tile<T> tile;
  const AccumulateT<T>* values = row_values(from, tile.data(), n);
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i)
    sum[i] += values[i];
}

template <typename T>
void forward(OpContext& context, std::span<const std::int32_t> tokens, std::int64_t length,
             const ConstTensorView& token_table, const ConstTensorView& positions,
             const ConstTensorView& type_row, const TensorView& out) {
  for_each_tile(context, out.rows(), out.cols(), false,
                [&](std::int64_t row, std::int64_t col, std::int64_t n, std::int64_t) {
                  Tile<T> sum;
                  load_row(token_table.row<T>(tokens[static_cast<std::size_t>(row)]) + col,
                           sum.data(), n);
                  if (!positions.empty())
                    accumulate(positions.row<T>(row % length) + col, n, sum.data());
                  if (!type_row.empty()) accumulate(type_row.data<T>() + col, n, sum.data());
                  store_row(sum.data(), out.row<T>(row) + col, n);
                });
}

// The positions n of tokens with an id in [row_begin, row_end), grouped by id and rising within a
// group: a counting sort. Group r is order[first[r], first[r + 1]).
struct TokenGroups {
  const std::int32_t* first;
  const std::int32_t* order;
};

TokenGroups group_tokens(OpContext& context, std::span<const std::int32_t> tokens,
                         std::int64_t row_begin, std::int64_t row_end) {
  const auto rows = static_cast<std::size_t>(row_end - row_begin);
  auto* first = reinterpret_cast<std::int32_t*>(context.scratch(
      embedding_backward_scratch(row_end - row_begin, static_cast<std::int64_t>(tokens.size()))));
  std::int32_t* order = first + rows + 2;
  std::fill_n(first, rows + 2, 0);
  const auto in_range = [&](std::int32_t id) { return id >= row_begin && id < row_end; };
  // Counted two places up: after the prefix sum first[r + 1] is where group r begins, and filling
  // the groups moves it on to where group r + 1 begins.
  for (const std::int32_t id : tokens)
    if (in_range(id)) ++first[id - row_begin + 2];
  for (std::size_t r = 2; r < rows + 2; ++r)
    first[r] += first[r - 1];
  for (std::size_t n = 0; n < tokens.size(); ++n)
    if (in_range(tokens[n]))
      order[first[tokens[n] - row_begin + 1]++] = static_cast<std::int32_t>(n);
  return {first, order};
}

template <typename T>
void backward(OpContext& context, std::span<const std::int32_t> tokens, const ConstTensorView& dx,
              std::int64_t row_begin, std::int64_t row_end, const ConstTensorView& add,
              const TensorView& dtable) {
  using A = AccumulateT<T>;
  const TokenGroups groups = group_tokens(context, tokens, row_begin, row_end);
  for_each_tile(context, dtable.rows(), dtable.cols(), false,
                [&](std::int64_t row, std::int64_t col, std::int64_t n, std::int64_t) {
                  T* target = dtable.row<T>(row) + col;
                  const std::int32_t* begin = groups.order + groups.first[row];
                  const std::int32_t* end = groups.order + groups.first[row + 1];
                  if (begin == end) {
                    if (add.empty())
                      std::fill_n(target, n, T{});
                    else
                      store_row(add.row<A>(row) + col, target, n);
                    return;
                  }
                  Tile<T> sum;
                  load_row(dx.row<T>(*begin) + col, sum.data(), n);
                  for (const std::int32_t* at = begin + 1; at < end; ++at)
                    accumulate(dx.row<T>(*at) + col, n, sum.data());
                  if (!add.empty()) accumulate(add.row<A>(row) + col, n, sum.data());
                  store_row(sum.data(), target, n);
                });
}

template <typename T>
void sum_sequences(OpContext& context, const ConstTensorView& dx, std::int64_t length,
                   const TensorView& dpositions) {
  for_each_tile(context, dpositions.rows(), dpositions.cols(), false,
                [&](std::int64_t row, std::int64_t col, std::int64_t n, std::int64_t) {
                  Tile<T> sum{};
                  if (row < length)
                    for (std::int64_t from = row; from < dx.rows(); from += length)
                      accumulate(dx.row<T>(from) + col, n, sum.data());
                  store_row(sum.data(), dpositions.row<T>(row) + col, n);
                });
}

}  // namespace

std::size_t embedding_backward_scratch(std::int64_t table_rows, std::int64_t tokens) {
  return static_cast<std::size_t>(table_rows + 2 + tokens) * sizeof(std::int32_t);
}

void embedding_forward(OpContext& context, std::span<const std::int32_t> tokens,
                       std::int64_t length, ConstTensorView token_table, ConstTensorView positions,
                       ConstTensorView type_row, TensorView out) {
  core::visit_floating(out.dtype(), [&](auto type) {
    forward<decltype(type)>(context, tokens, length, token_table, positions, type_row, out);
  });
}

void embedding_backward(OpContext& context, std::span<const std::int32_t> tokens,
                        ConstTensorView dx, std::int64_t row_begin, std::int64_t row_end,
                        ConstTensorView add, TensorView dtable) {
  core::visit_floating(dtable.dtype(), [&](auto type) {
    backward<decltype(type)>(context, tokens, dx, row_begin, row_end, add, dtable);
  });
}

void position_backward(OpContext& context, ConstTensorView dx, std::int64_t length,
                       TensorView dpositions) {
  core::visit_floating(dx.dtype(), [&](auto type) {
    sum_sequences<decltype(type)>(context, dx, length, dpositions);
  });
}

}  // namespace lockstep::ops::cpu
