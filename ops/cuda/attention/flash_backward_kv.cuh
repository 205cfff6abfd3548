#pragma once

#include "ops/cuda/attention/flash_backward.cuh"

namespace lockstep::ops::cuda {

// How the work on keys and values is cut. The two sums of 64 columns and two parts leave registers
// for 32 queries at a time; those of 128 columns for one part.
template <int W>
struct BackwardKvPlan {
  static constexpr int kParts = W == 64 ? 2 : 1;
  static constexpr int kWarpRows = BlockOf<kParts>::kWarpRows;
  static constexpr int kThreads = BlockOf<kParts>::kThreads;
  static constexpr int kBlocks = W == 64 ? 2 : 1;     // on a multiprocessor
  static constexpr int kQueries = W == 64 ? 64 : 32;  // fetched at a time
  static constexpr int kChunk = 32;                   // in registers at a time
  static constexpr int kTiles = kChunk / 8;
  static constexpr std::size_t kSums = 2 * kQueries * sizeof(float);
  static constexpr std::size_t kShared = tile_bytes<W>(2 * kTileRows + 4 * kQueries) + 2 * kSums;
};

// What one stage of shared memory holds of kQueries queries.
template <typename T, int W>
struct QueryStage {
  Tile<T, W> queries;
  Tile<T, W> slopes;  // dout
  float* lse_log2;
  float* minus_delta;

  __device__ QueryStage(T* shared, int stage)
      : queries{shared + (2 * kTileRows + 2 * stage * kQueries) * W},
        slopes{shared + (2 * kTileRows + (2 * stage + 1) * kQueries) * W},
        lse_log2(reinterpret_cast<float*>(shared + (2 * kTileRows + 4 * kQueries) * W) +
                 2 * stage * kQueries),
        minus_delta(lse_log2 + kQueries) {}

  // Under way until copy_async_wait.
  __device__ void fetch(const BackwardOperands<T>& of, int sequence, int head, int first) const {
    constexpr int kThreads = BackwardKvPlan<W>::kThreads;
    const FlashShape& shape = of.shape;
    load_tile<kQueries, kThreads>(queries, of.q.head(shape, sequence, head), first, shape.length,
                                  shape.width);
    load_tile<kQueries, kThreads>(slopes, of.dout.head(shape, sequence, head), first, shape.length,
                                  shape.width);
    const int at = static_cast<int>(threadIdx.x) * 4;
    if (at < 2 * kQueries) {
      const float* from = at < kQueries ? of.sums.lse_log2 : of.sums.minus_delta;
      copy_async(lse_log2 + at,
                 from + of.sums.begin(shape, sequence, head) + first + at % kQueries);
    }
    copy_async_commit();
  }

 private:
  static constexpr int kQueries = BackwardKvPlan<W>::kQueries;
};

// The walk over the queries that see a tile of keys, head by head of those that share them.
struct QueryWalk {
  int head;
  int step;
  int begin;
  int end;

  __device__ void advance() {
    if (++step == end) {
      step = begin;
      ++head;
    }
  }
};

// Scores of keys from `first_key` on and queries from `first_query` on: -infinity for keys that the
// query does not see.
template <int kParts, int kTiles>
__device__ inline void mask_queries(float (&scores)[kParts][kTiles][4], const FlashShape& shape,
                                    int first_key, int first_query) {
  if (!shape.causal || first_query >= first_key + kParts * kPartRows - 1) return;
  const int distance = first_query - first_key;
#pragma unroll
  for (int m = 0; m < kParts; ++m) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      // The first column that sees the row, as seen from the lane's first one.
      const int seen = row_of(m, i) - distance - column_of(0, i);
#pragma unroll
      for (int n = 0; n < kTiles; ++n)
        if (8 * n < seen) scores[m][n][i] = -INFINITY;
    }
  }
}

// Adds what queries [at, at + kChunk) of a stage, the first one of which is `first_query`, give to
// the warp's keys, which begin with `first_key`.
template <bool kDrops, typename T, int W, typename Sum>
__device__ inline void add_queries(const BackwardOperands<T>& of, int sequence, int head,
                                   const QueryStage<T, W>& stage, int at, int first_query,
                                   int first_key,
                                   const ReadRows<BackwardKvPlan<W>::kParts, T, W>& keys,
                                   const ReadRows<BackwardKvPlan<W>::kParts, T, W>& values,
                                   Sum& key_sum, Sum& value_sum) {
  using Plan = BackwardKvPlan<W>;
  const auto minus_delta = [&](int, int n, int i) {
    return stage.minus_delta[at + column_of(n, i)];
  };
  float scores[Plan::kParts][Plan::kTiles][4];  // key x query
  float products[Plan::kParts][Plan::kTiles][4];
  clear(scores);
  multiply_rows(scores, keys, stage.queries, at);
  begin_products<kDrops>(products, minus_delta);
  multiply_rows(products, values, stage.slopes, at);
  mask_queries(scores, of.shape, first_key, first_query);
  differentiate<kDrops>(
      scores, products, of.shape.scale_log2,
      [&](int, int n, int i) { return stage.lse_log2[at + column_of(n, i)]; }, minus_delta,
      [&](float(&kept)[4], int m, int n) {
        FlashDropout{of.dropout, of.shape, sequence, head}.key_rows(kept, first_query + 8 * n,
                                                                    first_key + m * kPartRows);
      });
  multiply_weights(value_sum, scores, stage.slopes, at);
  multiply_weights(key_sum, products, stage.queries, at);
}

// One block: gradients of 128 keys and values of one key/value head, over all queries that see
// them, of all query heads that share it, in order. Rows of keys that are not there hold nothing
// that anybody reads.
template <typename T, int W, bool kDrops>
__global__ void __launch_bounds__(BackwardKvPlan<W>::kThreads, BackwardKvPlan<W>::kBlocks)
    flash_backward_kv_kernel(BackwardOperands<T> of) {
  using Plan = BackwardKvPlan<W>;
  const FlashShape& shape = of.shape;
  const FlashBlock block = block_of(shape, shape.kv_heads, false);
  const int row = warp_of_thread() * Plan::kWarpRows;
  const int first_key = block.first + row;

  T* shared = dynamic_shared<T>();
  const Tile<T, W> keys{shared};
  const Tile<T, W> values{shared + kTileRows * W};
  load_tile<kTileRows, Plan::kThreads>(keys, of.k.head(shape, block.sequence, block.head),
                                       block.first, shape.length, shape.width);
  load_tile<kTileRows, Plan::kThreads>(values, of.v.head(shape, block.sequence, block.head),
                                       block.first, shape.length, shape.width);
  const int begin = shape.causal ? block.first / Plan::kQueries : 0;
  const int end = (shape.length + Plan::kQueries - 1) / Plan::kQueries;
  QueryWalk walk{block.head * shape.group(), begin, begin, end};
  const auto fetch = [&](const QueryWalk& next, int stage) {
    QueryStage<T, W>(shared, stage)
        .fetch(of, block.sequence, next.head, next.step * Plan::kQueries);
  };
  fetch(walk, 0);

  const ReadRows<Plan::kParts, T, W> key_rows(keys, row);
  const ReadRows<Plan::kParts, T, W> value_rows(values, row);
  float key_sum[Plan::kParts][W / 8][4];
  float value_sum[Plan::kParts][W / 8][4];
  clear(key_sum);
  clear(value_sum);
  const int last_head = (block.head + 1) * shape.group();
  for (int stage = 0; walk.head < last_head; stage = 1 - stage) {
    copy_async_wait<0>();
    sync_threads();  // these queries are there, and nobody uses those before them any longer
    const int head = walk.head;
    const int first = walk.step * Plan::kQueries;
    walk.advance();
    if (walk.head < last_head) fetch(walk, 1 - stage);
    const QueryStage<T, W> here(shared, stage);
#pragma unroll 1
    for (int at = 0; at < Plan::kQueries; at += Plan::kChunk) {
      if (shape.causal && first + at + Plan::kChunk <= first_key) continue;
      add_queries<kDrops>(of, block.sequence, head, here, at, first + at, first_key, key_rows,
                          value_rows, key_sum, value_sum);
    }
  }
  store_rows(
      key_sum, [&](int, int) { return shape.scale; }, keys, row,
      of.dk.head(shape, block.sequence, block.head), block.first, shape.length, shape.width);
  store_rows(
      value_sum, [](int, int) { return 1.0F; }, values, row,
      of.dv.head(shape, block.sequence, block.head), block.first, shape.length, shape.width);
}

}  // namespace lockstep::ops::cuda
