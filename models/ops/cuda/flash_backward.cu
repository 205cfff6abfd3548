#include "models/ops/cuda/bodies.h"
#include "models/ops/cuda/flash_attention.cuh"

namespace lockstep::models::ops::cuda {

namespace {

constexpr float kLog2E = 1.4426950408889634F;

// delta = sum(dout * out) of a query and head: what the softmax's derivative subtracts. A warp
// each.
template <typename T>
__global__ void flash_delta_kernel(FlashShape shape, std::int64_t rows, HeadMatrix<const T> out,
                                   HeadMatrix<const T> dout, float* delta) {
  const std::int64_t index =
      static_cast<std::int64_t>(blockIdx.x) * (kFlashThreads / kWarp) + threadIdx.x / kWarp;
  if (index >= rows * shape.heads) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t row = index / shape.heads;
  const auto head = static_cast<int>(index % shape.heads);
  const std::int64_t column = static_cast<std::int64_t>(head) * shape.width;
  float sum = 0.0F;
  if (lane * kLane < shape.width) {
    float a[kLane];
    float b[kLane];
    load(out.data + row * out.stride + column + lane * kLane, kLane, true, a);
    load(dout.data + row * dout.stride + column + lane * kLane, kLane, true, b);
#pragma unroll
    for (int i = 0; i < kLane; ++i)
      sum += a[i] * b[i];
  }
  sum = combine_lanes(sum, AddOf{});
  const std::int64_t sequence = row / shape.length;
  if (lane == 0) {
    delta[(sequence * shape.heads + head) * shape.length + row % shape.length] = sum;
  }
}

// Per query of one head of one sequence.
struct RowSums {
  const float* lse;
  const float* delta;
};

__device__ RowSums row_sums(const FlashShape& shape, const float* lse, const float* delta,
                            std::int64_t sequence, int head) {
  const std::int64_t begin = (sequence * shape.heads + head) * shape.length;
  return {lse + begin, delta + begin};
}

// From scores and the products dout v: probabilities (times the factor of dropout) and d(scores) /
// scale. `query_of`, `key_of`: position of element i of tile n.
template <int kTiles, typename Query, typename Key>
__device__ void differentiate(float (&scores)[kTiles][4], float (&products)[kTiles][4],
                              const FlashShape& shape, const DropoutRule& dropout,
                              const RowSums& sums, std::int64_t sequence, int head, Query query_of,
                              Key key_of) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const std::int64_t query = query_of(n, i);
      const std::int64_t key = key_of(n, i);
      const bool seen =
          query < shape.length && key < shape.length && (!shape.causal || key <= query);
      float probability = 0.0F;
      float slope = 0.0F;
      if (seen) {
        probability = expand_exp2(scores[n][i] * shape.scale_log2 - sums.lse[query] * kLog2E);
        const float factor =
            dropout.active ? attention_factor(dropout, shape, sequence, head, query, key) : 1.0F;
        slope = probability * (factor * products[n][i] - sums.delta[query]);
        probability *= factor;
      }
      scores[n][i] = probability;
      products[n][i] = slope;
    }
  }
}

// One block: gradients of 64 keys and values of one key/value head, over all queries that see them,
// of all query heads that share it, in order.
template <typename T, int W>
__global__ void flash_backward_kv_kernel(FlashShape shape, HeadMatrix<const T> q,
                                         HeadMatrix<const T> k, HeadMatrix<const T> v,
                                         HeadMatrix<const T> dout, const float* lse,
                                         const float* delta, DropoutRule dropout, HeadMatrix<T> dk,
                                         HeadMatrix<T> dv) {
  // Two accumulators of 16 x W a warp leave registers for so many queries.
  constexpr int kQueries = W == 64 ? 64 : 32;
  constexpr int kTiles = kQueries / 8;
  const int tile = static_cast<int>(blockIdx.x) % shape.tiles;
  const int kv_head = static_cast<int>(blockIdx.x) / shape.tiles % shape.kv_heads;
  const std::int64_t sequence = static_cast<int>(blockIdx.x) / shape.tiles / shape.kv_heads;
  const std::int64_t first = static_cast<std::int64_t>(tile) * kTileRows;
  const int row = static_cast<int>(threadIdx.x) / kWarp * kWarpRows;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;

  T* shared = dynamic_shared<T>();
  const Tile<T, W> keys{shared};
  const Tile<T, W> values{shared + kTileRows * W};
  const auto queries = [&](int stage) {
    return Tile<T, W>{shared + (2 * kTileRows + 2 * stage * kQueries) * W};
  };
  const auto slopes = [&](int stage) {  // dout
    return Tile<T, W>{shared + (2 * kTileRows + (2 * stage + 1) * kQueries) * W};
  };
  load_tile<kTileRows>(keys, k.head(shape, sequence, kv_head), first, shape.length, shape.width);
  load_tile<kTileRows>(values, v.head(shape, sequence, kv_head), first, shape.length, shape.width);

  const std::int64_t begin = shape.causal ? first / kQueries : 0;
  const std::int64_t end = (shape.length + kQueries - 1) / kQueries;
  const std::int64_t steps = (end - begin) * shape.group();
  const auto fetch = [&](std::int64_t step) {
    const int head = kv_head * shape.group() + static_cast<int>(step / (end - begin));
    const std::int64_t query = (begin + step % (end - begin)) * kQueries;
    const int stage = static_cast<int>(step % 2);
    load_tile<kQueries>(queries(stage), q.head(shape, sequence, head), query, shape.length,
                        shape.width);
    load_tile<kQueries>(slopes(stage), dout.head(shape, sequence, head), query, shape.length,
                        shape.width);
  };
  fetch(0);
  copy_async_commit();

  float key_sum[W / 8][4];
  float value_sum[W / 8][4];
  clear(key_sum);
  clear(value_sum);
  for (std::int64_t step = 0; step < steps; ++step) {
    if (step + 1 < steps) fetch(step + 1);
    copy_async_commit();
    copy_async_wait<1>();
    sync_threads();
    const int stage = static_cast<int>(step % 2);
    const int head = kv_head * shape.group() + static_cast<int>(step / (end - begin));
    const std::int64_t first_query = (begin + step % (end - begin)) * kQueries;
    float scores[kTiles][4];  // key x query
    float products[kTiles][4];
    clear(scores);
    clear(products);
    multiply_rows(scores, keys, row, queries(stage));
    multiply_rows(products, values, row, slopes(stage));
    differentiate(
        scores, products, shape, dropout, row_sums(shape, lse, delta, sequence, head), sequence,
        head, [&](int n, int i) { return first_query + 8 * n + lane % 4 * 2 + i % 2; },
        [&](int, int i) { return first + row + lane / 4 + i / 2 * 8; });
    multiply_weights(value_sum, scores, slopes(stage));
    multiply_weights(key_sum, products, queries(stage));
    sync_threads();
  }
  store_rows(key_sum, shape.scale, shape.scale, keys, row, dk.head(shape, sequence, kv_head), first,
             shape.length, shape.width);
  store_rows(value_sum, 1.0F, 1.0F, values, row, dv.head(shape, sequence, kv_head), first,
             shape.length, shape.width);
}

// One block: the gradient of 64 queries of one head, over the keys that they see.
template <typename T, int W>
__global__ void flash_backward_q_kernel(FlashShape shape, HeadMatrix<const T> q,
                                        HeadMatrix<const T> k, HeadMatrix<const T> v,
                                        HeadMatrix<const T> dout, const float* lse,
                                        const float* delta, DropoutRule dropout, HeadMatrix<T> dq) {
  constexpr int kKeys = W == 64 ? 64 : 32;
  constexpr int kTiles = kKeys / 8;
  const int tile = shape.tiles - 1 - static_cast<int>(blockIdx.x) % shape.tiles;
  const int head = static_cast<int>(blockIdx.x) / shape.tiles % shape.heads;
  const std::int64_t sequence = static_cast<int>(blockIdx.x) / shape.tiles / shape.heads;
  const int kv_head = head / shape.group();
  const std::int64_t first = static_cast<std::int64_t>(tile) * kTileRows;
  const int row = static_cast<int>(threadIdx.x) / kWarp * kWarpRows;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;

  T* shared = dynamic_shared<T>();
  const Tile<T, W> queries{shared};
  const Tile<T, W> slopes{shared + kTileRows * W};  // dout
  const auto keys = [&](int stage) {
    return Tile<T, W>{shared + (2 * kTileRows + 2 * stage * kKeys) * W};
  };
  const auto values = [&](int stage) {
    return Tile<T, W>{shared + (2 * kTileRows + (2 * stage + 1) * kKeys) * W};
  };
  const HeadRows<const T> key_rows = k.head(shape, sequence, kv_head);
  const HeadRows<const T> value_rows = v.head(shape, sequence, kv_head);
  const std::int64_t last = shape.causal ? first + kTileRows : shape.length;
  const std::int64_t steps = ((last < shape.length ? last : shape.length) + kKeys - 1) / kKeys;
  const auto fetch = [&](std::int64_t step) {
    const int stage = static_cast<int>(step % 2);
    load_tile<kKeys>(keys(stage), key_rows, step * kKeys, shape.length, shape.width);
    load_tile<kKeys>(values(stage), value_rows, step * kKeys, shape.length, shape.width);
  };
  load_tile<kTileRows>(queries, q.head(shape, sequence, head), first, shape.length, shape.width);
  load_tile<kTileRows>(slopes, dout.head(shape, sequence, head), first, shape.length, shape.width);
  fetch(0);
  copy_async_commit();

  const RowSums sums = row_sums(shape, lse, delta, sequence, head);
  float result[W / 8][4];
  clear(result);
  for (std::int64_t step = 0; step < steps; ++step) {
    if (step + 1 < steps) fetch(step + 1);
    copy_async_commit();
    copy_async_wait<1>();
    sync_threads();
    const int stage = static_cast<int>(step % 2);
    float scores[kTiles][4];  // query x key
    float products[kTiles][4];
    clear(scores);
    clear(products);
    multiply_rows(scores, queries, row, keys(stage));
    multiply_rows(products, slopes, row, values(stage));
    differentiate(
        scores, products, shape, dropout, sums, sequence, head,
        [&](int, int i) { return first + row + lane / 4 + i / 2 * 8; },
        [&](int n, int i) { return step * kKeys + 8 * n + lane % 4 * 2 + i % 2; });
    multiply_weights(result, products, keys(stage));
    sync_threads();
  }
  store_rows(result, shape.scale, shape.scale, queries, row, dq.head(shape, sequence, head), first,
             shape.length, shape.width);
}

}  // namespace

void flash_attention_backward(OpContext& context, const AttentionSpec& spec, ConstTensorView dout,
                              ConstTensorView q, ConstTensorView k, ConstTensorView v,
                              ConstTensorView out, ConstTensorView lse, TensorView dq,
                              TensorView dk, TensorView dv) {
  if (!flash_serves(spec, {dout, q, k, v, out, dq, dk, dv})) {
    cuda::attention_backward(context, spec, dout, q, k, v, out, lse, dq, dk, dv);
    return;
  }
  const FlashShape shape(spec);
  const DropoutRule dropout(spec.dropout, spec.heads * spec.length * spec.length);
  const std::int64_t rows = spec.sequences * spec.length;
  auto* delta = reinterpret_cast<float*>(context.scratch(Carver::bytes<float>(rows * spec.heads)));
  constexpr int kWarps = kFlashThreads / kWarp;
  visit_flash(q.dtype(), shape.width, [&](auto type, auto padded) {
    using T = decltype(type);
    constexpr int W = decltype(padded)::value;
    constexpr int kInner = W == 64 ? 64 : 32;
    constexpr std::size_t kShared = tile_bytes<W>(2 * kTileRows + 4 * kInner);
    launch("flash_delta", flash_delta_kernel<T>,
           Grid{block_count(ceil_div(rows * spec.heads, kWarps)), kFlashThreads, 0},
           context.stream(), shape, rows, heads_of<const T>(out), heads_of<const T>(dout), delta);
    launch("flash_backward_kv", flash_backward_kv_kernel<T, W>,
           Grid{block_count(spec.sequences * spec.kv_heads * shape.tiles), kFlashThreads, kShared},
           context.stream(), shape, heads_of<const T>(q), heads_of<const T>(k),
           heads_of<const T>(v), heads_of<const T>(dout), pointer_of<const float>(lse),
           static_cast<const float*>(delta), dropout, heads_of<T>(dk), heads_of<T>(dv));
    launch("flash_backward_q", flash_backward_q_kernel<T, W>,
           Grid{block_count(spec.sequences * spec.heads * shape.tiles), kFlashThreads, kShared},
           context.stream(), shape, heads_of<const T>(q), heads_of<const T>(k),
           heads_of<const T>(v), heads_of<const T>(dout), pointer_of<const float>(lse),
           static_cast<const float*>(delta), dropout, heads_of<T>(dq));
  });
}

}  // namespace lockstep::models::ops::cuda
