#pragma once

#include "ops/cuda/attention/flash_backward.cuh"

namespace lockstep::ops::cuda {

// How the work on queries is cut.
template <int W>
struct BackwardQPlan {
  static constexpr int kParts = W == 64 ? 2 : 1;
  static constexpr int kWarpRows = BlockOf<kParts>::kWarpRows;
  static constexpr int kThreads = BlockOf<kParts>::kThreads;
  static constexpr int kBlocks = W == 64 ? 2 : 1;  // on a multiprocessor
  static constexpr int kKeys = W == 64 ? 64 : 32;  // fetched at a time
  static constexpr int kChunk = 32;                // in registers at a time
  static constexpr int kTiles = kChunk / 8;
  static constexpr bool kKeepRows = true;  // queries and dout in registers
  static constexpr std::size_t kShared = tile_bytes<W>(2 * kTileRows + 4 * kKeys);
};

// One block: the gradient of 128 queries of one head, over the keys that they see.
template <typename T, int W, bool kDrops>
__global__ void __launch_bounds__(BackwardQPlan<W>::kThreads, BackwardQPlan<W>::kBlocks)
    flash_backward_q_kernel(BackwardOperands<T> of) {
  using Plan = BackwardQPlan<W>;
  const FlashShape& shape = of.shape;
  const FlashBlock block = block_of(shape, shape.heads, true);
  const int row = warp_of_thread() * Plan::kWarpRows;
  const int first_query = block.first + row;

  T* shared = dynamic_shared<T>();
  const Tile<T, W> queries{shared};
  const Tile<T, W> slopes{shared + kTileRows * W};  // dout
  const auto keys = [&](int stage) {
    return Tile<T, W>{shared + (2 * kTileRows + 2 * stage * Plan::kKeys) * W};
  };
  const auto values = [&](int stage) {
    return Tile<T, W>{shared + (2 * kTileRows + (2 * stage + 1) * Plan::kKeys) * W};
  };
  const HeadRows<const T> key_rows = of.k.head(shape, block.sequence, block.head / shape.group());
  const HeadRows<const T> value_rows = of.v.head(shape, block.sequence, block.head / shape.group());
  const auto fetch = [&](int step) {
    const int first = step * Plan::kKeys;
    load_tile<Plan::kKeys, Plan::kThreads>(keys(step % 2), key_rows, first, shape.length,
                                           shape.width);
    load_tile<Plan::kKeys, Plan::kThreads>(values(step % 2), value_rows, first, shape.length,
                                           shape.width);
    copy_async_commit();
  };
  load_tile<kTileRows, Plan::kThreads>(queries, of.q.head(shape, block.sequence, block.head),
                                       block.first, shape.length, shape.width);
  load_tile<kTileRows, Plan::kThreads>(slopes, of.dout.head(shape, block.sequence, block.head),
                                       block.first, shape.length, shape.width);
  fetch(0);

  float lse_log2[Plan::kParts][2];
  float delta[Plan::kParts][2];
  const std::int64_t sums = of.sums.begin(shape, block.sequence, block.head) + first_query;
#pragma unroll
  for (int m = 0; m < Plan::kParts; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      lse_log2[m][half] = of.sums.lse_log2[sums + row_of(m, 2 * half)];
      delta[m][half] = of.sums.minus_delta[sums + row_of(m, 2 * half)];
    }
  }
  const auto minus_delta = [&](int m, int, int i) { return delta[m][i / 2]; };

  copy_async_wait<0>();
  sync_threads();
  const LeftRows<Plan::kKeepRows, Plan::kParts, T, W> query_rows(queries, row);
  const LeftRows<Plan::kKeepRows, Plan::kParts, T, W> slope_rows(slopes, row);
  float result[Plan::kParts][W / 8][4];
  clear(result);
  const int steps = steps_over_keys(shape, block, Plan::kKeys);
  for (int step = 0; step < steps; ++step) {
    if (step > 0) {
      copy_async_wait<0>();
      sync_threads();  // these keys are there, and nobody uses those before them any longer
    }
    if (step + 1 < steps) fetch(step + 1);
#pragma unroll 1
    for (int at = 0; at < Plan::kKeys; at += Plan::kChunk) {
      const int first_key = step * Plan::kKeys + at;
      if (shape.causal && first_key >= first_query + Plan::kWarpRows) break;
      float scores[Plan::kParts][Plan::kTiles][4];  // query x key
      float products[Plan::kParts][Plan::kTiles][4];
      clear(scores);
      multiply_rows(scores, query_rows, keys(step % 2), at);
      begin_products<kDrops>(products, minus_delta);
      multiply_rows(products, slope_rows, values(step % 2), at);
      mask_keys(scores, shape, first_query, first_key);
      differentiate<kDrops>(
          scores, products, shape.scale_log2, [&](int m, int, int i) { return lse_log2[m][i / 2]; },
          minus_delta,
          [&](float(&kept)[4], int m, int n) {
            FlashDropout{of.dropout, shape, block.sequence, block.head}.query_rows(
                kept, first_query + m * kPartRows, first_key + 8 * n);
          });
      multiply_weights(result, products, keys(step % 2), at);
    }
  }
  store_rows(
      result, [&](int, int) { return shape.scale; }, queries, row,
      of.dq.head(shape, block.sequence, block.head), block.first, shape.length, shape.width);
}

}  // namespace lockstep::ops::cuda
