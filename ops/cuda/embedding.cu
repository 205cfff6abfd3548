#include <numeric>
#include <vector>

#include "ops/cuda/bodies.h"
#include "ops/cuda/op_kernel.cuh"
#include "ops/cuda/packs.cuh"

namespace lockstep::ops::cuda {

namespace {

constexpr int kForwardWarps = 8;  // of a block; a row to a warp
constexpr int kForwardPacks = 4;  // of a thread, which asks for all of them at once

template <typename T>
struct EmbeddingRows {
  const std::int32_t* tokens;
  int rows;
  int length;  // of a sequence
  Rows<const T> table;
  Rows<const T> positions;
  Rows<const T> type_row;
  Rows<T> out;
  std::int64_t cols;

  // All rows are whole packs that lie on 16 bytes.
  bool whole() const {
    const auto fits = [](const auto& operand) {
      return operand.data == nullptr || operand.aligned;
    };
    return cols % kLane == 0 && fits(table) && fits(positions) && fits(type_row) && fits(out);
  }
};

template <typename T>
__device__ inline void add_pack(const Raw<T>& raw, float (&sum)[kLane]) {
  float v[kLane];
  unpack(raw, v);
#pragma unroll
  for (int i = 0; i < kLane; ++i)
    sum[i] += v[i];
}

template <typename T, bool kWhole>
__global__ void __launch_bounds__(kForwardWarps* kWarp)
    embedding_forward_kernel(EmbeddingRows<T> e) {
  const int row = static_cast<int>(blockIdx.x) * kForwardWarps + warp_of_thread();
  if (row >= e.rows) return;
  const T* token = e.table.row(e.tokens[row]);
  const T* position = e.positions.row(e.positions.data == nullptr ? 0 : row % e.length);
  constexpr int kStep = kWarp * kLane;
  for (std::int64_t begin = lane_of_thread() * kLane; begin < e.cols;
       begin += kForwardPacks * kStep) {
    Raw<T> tokens[kForwardPacks];
    Raw<T> positions[kForwardPacks] = {};
    Raw<T> types[kForwardPacks] = {};
#pragma unroll
    for (int k = 0; k < kForwardPacks; ++k) {
      const std::int64_t col = begin + k * kStep;
      tokens[k] = fetch<kWhole>(token + col, e.cols - col);
      if (e.positions.data != nullptr) positions[k] = fetch<kWhole>(position + col, e.cols - col);
      if (e.type_row.data != nullptr) types[k] = fetch<kWhole>(e.type_row.data + col, e.cols - col);
    }
#pragma unroll
    for (int k = 0; k < kForwardPacks; ++k) {
      const std::int64_t col = begin + k * kStep;
      float sum[kLane];
      unpack(tokens[k], sum);
      add_pack(positions[k], sum);
      add_pack(types[k], sum);
      put<kWhole>(sum, e.cols - col, e.out.row(row) + col);
    }
  }
}

constexpr std::int64_t kBlockCols = kWarp * kLane;  // columns that a warp covers
constexpr int kShortWarps = 4;         // of a block that takes rows with few occurrences
constexpr int kShortOccurrences = 16;  // at most in such a row
constexpr int kLongWarps = 16;         // of a block that takes one row with more

// The positions of the tokens of table row r are order[first[r], first[r + 1]).
template <typename T>
struct EmbeddingGradient {
  const std::int32_t* first;
  const std::int32_t* order;
  Rows<const T> dx;
  Rows<const float> add;
  Rows<T> dtable;
  std::int64_t cols;
  std::int64_t col_blocks;

  // sum += dx of every `step`-th occurrence from `at` on, in their order; kBatch are under way at
  // once.
  template <bool kWhole, int kBatch>
  __device__ void add_occurrences(std::int32_t at, std::int32_t end, std::int32_t step,
                                  std::int64_t col, float (&sum)[kLane]) const {
    for (; at < end; at += kBatch * step) {
      Raw<T> batch[kBatch];
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        const bool there = at < end - b * step;
        const std::int32_t n = there ? order[at + b * step] : 0;
        batch[b] = fetch<kWhole>(dx.row(n) + col, there ? cols - col : 0);
      }
#pragma unroll
      for (int b = 0; b < kBatch; ++b)
        add_pack(batch[b], sum);
    }
  }

  __device__ void finish(std::int64_t row, std::int64_t col, float (&sum)[kLane]) const {
    if (add.data != nullptr) {
      float v[kLane];
      load(add.row(row) + col, cols - col, add.aligned, v);
#pragma unroll
      for (int i = 0; i < kLane; ++i)
        sum[i] += v[i];
    }
    store(sum, cols - col, dtable.aligned, dtable.row(row) + col);
  }
};

// A warp to a row with at most kShortOccurrences, as most are; the others are left out.
template <typename T, bool kWhole>
__global__ void embedding_short_rows_kernel(EmbeddingGradient<T> g, std::int64_t rows) {
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kShortWarps + warp_of_thread();
  const std::int64_t row = index / g.col_blocks;
  const std::int64_t col = index % g.col_blocks * kBlockCols + lane_of_thread() * kLane;
  if (row >= rows || col >= g.cols) return;
  const std::int32_t begin = g.first[row];
  const std::int32_t end = g.first[row + 1];
  if (end - begin > kShortOccurrences) return;
  float sum[kLane] = {};
  g.template add_occurrences<kWhole, 4>(begin, end, 1, col, sum);
  g.finish(row, col, sum);
}

// A block to a row: each warp adds every kLongWarps-th occurrence, and the first adds their sums.
template <typename T, bool kWhole>
__global__ void __launch_bounds__(kLongWarps* kWarp)
    embedding_long_rows_kernel(EmbeddingGradient<T> g, const std::int32_t* long_rows) {
  LOCKSTEP_SHARED(float, sums, kLongWarps* kBlockCols);
  const std::int64_t row = long_rows[blockIdx.x / g.col_blocks];
  const int own = lane_of_thread() * kLane;
  const std::int64_t col = blockIdx.x % g.col_blocks * kBlockCols + own;
  float sum[kLane] = {};
  g.template add_occurrences<kWhole, 8>(g.first[row] + warp_of_thread(), g.first[row + 1],
                                        kLongWarps, col, sum);
#pragma unroll
  for (int i = 0; i < kLane; ++i)
    sums[warp_of_thread() * kBlockCols + own + i] = sum[i];
  sync_threads();
  if (warp_of_thread() != 0 || col >= g.cols) return;
  for (int w = 1; w < kLongWarps; ++w)
#pragma unroll
    for (int i = 0; i < kLane; ++i)
      sum[i] += sums[w * kBlockCols + own + i];
  g.finish(row, col, sum);
}

template <typename T>
__global__ void position_backward_kernel(Walk walk, Rows<const T> dx, std::int64_t rows,
                                         std::int64_t length, Rows<T> dpositions) {
  const Piece p(walk);
  if (p.count <= 0) return;
  float sum[kLane] = {};
  if (p.row < length) {
    for (std::int64_t r = p.row; r < rows; r += length) {
      float v[kLane];
      load(dx.row(r) + p.col, p.count, dx.aligned, v);
#pragma unroll
      for (int i = 0; i < kLane; ++i)
        sum[i] += v[i];
    }
  }
  store(sum, p.count, dpositions.aligned, dpositions.row(p.row) + p.col);
}

// Where the tokens of each table row are, by a counting sort on the host: first[rows + 1],
// order[all occurrences of tokens within the rows], rising within a row, and the rows with many.
struct TokenGroups {
  std::vector<std::int32_t> values;
  std::int64_t rows;
  std::int64_t occurrences;
  std::int64_t long_rows;

  TokenGroups(std::span<const std::int32_t> tokens, std::int64_t row_begin, std::int64_t row_end)
      : values(static_cast<std::size_t>(std::max<std::int64_t>(row_end - row_begin, 0) + 1), 0),
        rows(row_end - row_begin),
        long_rows(0) {
    const auto in_range = [&](std::int32_t id) { return id >= row_begin && id < row_end; };
    for (const std::int32_t id : tokens)
      if (in_range(id)) ++values[static_cast<std::size_t>(id - row_begin) + 1];
    std::partial_sum(values.begin(), values.end(), values.begin());
    occurrences = values.back();
    const auto found = static_cast<std::size_t>(occurrences);
    std::vector<std::int32_t> next(values);
    values.resize(values.size() + found);
    std::int32_t* order = values.data() + rows + 1;
    for (std::size_t n = 0; n < tokens.size(); ++n) {
      if (!in_range(tokens[n])) continue;
      order[next[static_cast<std::size_t>(tokens[n] - row_begin)]++] = static_cast<std::int32_t>(n);
    }
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto i = static_cast<std::size_t>(r);
      if (values[i + 1] - values[i] <= kShortOccurrences) continue;
      values.push_back(static_cast<std::int32_t>(r));
      ++long_rows;
    }
  }
};

// Into scratch memory.
const std::int32_t* to_scratch(OpContext& context, std::span<const std::int32_t> values) {
  auto* memory = reinterpret_cast<std::int32_t*>(
      context.scratch(std::max<std::size_t>(values.size_bytes(), 1)));
  context.upload(memory, values.data(), values.size_bytes());
  return memory;
}

}  // namespace

void embedding_forward(OpContext& context, std::span<const std::int32_t> tokens,
                       std::int64_t length, ConstTensorView token_table, ConstTensorView positions,
                       ConstTensorView type_row, TensorView out) {
  const auto rows = static_cast<int>(block_count(out.rows()));
  const Grid grid{block_count(ceil_div(rows, kForwardWarps)), kForwardWarps * kWarp, 0};
  const std::int32_t* on_device = to_scratch(context, tokens);
  visit_compute(out.dtype(), [&](auto type) {
    using T = decltype(type);
    const EmbeddingRows<T> e{on_device,
                             rows,
                             static_cast<int>(length),
                             rows_of<const T>(token_table),
                             rows_of<const T>(positions),
                             flat_of<const T>(type_row),
                             rows_of<T>(out),
                             out.cols()};
    launch("embedding_forward",
           e.whole() ? embedding_forward_kernel<T, true> : embedding_forward_kernel<T, false>, grid,
           context.stream(), e);
  });
}

void embedding_backward(OpContext& context, std::span<const std::int32_t> tokens,
                        ConstTensorView dx, std::int64_t row_begin, std::int64_t row_end,
                        ConstTensorView add, TensorView dtable) {
  const TokenGroups groups(tokens, row_begin, row_end);
  const std::int32_t* first = to_scratch(context, groups.values);
  const std::int32_t* order = first + groups.rows + 1;
  const std::int64_t col_blocks = ceil_div(dtable.cols(), kBlockCols);
  visit_compute(dtable.dtype(), [&](auto type) {
    using T = decltype(type);
    const EmbeddingGradient<T> gradient{first,
                                        order,
                                        rows_of<const T>(dx),
                                        rows_of<const float>(add),
                                        rows_of<T>(dtable),
                                        dtable.cols(),
                                        col_blocks};
    const bool whole = gradient.dx.aligned && dtable.cols() % kLane == 0;
    launch(
        "embedding_backward, short rows",
        whole ? embedding_short_rows_kernel<T, true> : embedding_short_rows_kernel<T, false>,
        Grid{block_count(ceil_div(groups.rows * col_blocks, kShortWarps)), kShortWarps * kWarp, 0},
        context.stream(), gradient, groups.rows);
    launch("embedding_backward, long rows",
           whole ? embedding_long_rows_kernel<T, true> : embedding_long_rows_kernel<T, false>,
           Grid{block_count(groups.long_rows * col_blocks), kLongWarps * kWarp, 0},
           context.stream(), gradient, order + groups.occurrences);
  });
}

void position_backward(OpContext& context, ConstTensorView dx, std::int64_t length,
                       TensorView dpositions) {
  const Walk walk(dpositions.rows(), dpositions.cols(), false);
  visit_compute(dx.dtype(), [&](auto type) {
    using T = decltype(type);
    launch("position_backward", position_backward_kernel<T>, walk.grid(), context.stream(), walk,
           rows_of<const T>(dx), dx.rows(), length, rows_of<T>(dpositions));
  });
}

}  // namespace lockstep::ops::cuda
