#include "models/ops/cuda/bodies.h"
#include "models/ops/cuda/flash_attention.cuh"

namespace lockstep::models::ops::cuda {

namespace {

constexpr int kScoreTiles = kTileRows / 8;

// The running softmax of the two rows that a lane's quad holds: row lane/4 and row lane/4 + 8.
struct RunningSoftmax {
  float maximum[2];
  float sum[2];  // of this lane's columns
};

__device__ void mask_scores(float (&scores)[kScoreTiles][4], const FlashShape& shape,
                            std::int64_t first_query, std::int64_t first_key) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int n = 0; n < kScoreTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const std::int64_t key = first_key + 8 * n + lane % 4 * 2 + i % 2;
      const std::int64_t query = first_query + lane / 4 + i / 2 * 8;
      if (key >= shape.length || (shape.causal && key > query)) scores[n][i] = -INFINITY;
    }
  }
}

// Scores become exp(scale * (score - maximum)); what was summed up before is brought to the new
// maximum. Every row has met a key that it sees in its first tile, so the maximum is finite.
template <int W>
__device__ void update_softmax(float (&scores)[kScoreTiles][4], RunningSoftmax& softmax,
                               float (&out)[W / 8][4], float scale_log2) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float top = softmax.maximum[half];
#pragma unroll
    for (int n = 0; n < kScoreTiles; ++n)
      top = fmaxf(top, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
    top = combine_lanes(top, MaximumOf{}, 4);
    const float shrink = expand_exp2((softmax.maximum[half] - top) * scale_log2);
    softmax.maximum[half] = top;
    float sum = 0.0F;
#pragma unroll
    for (int n = 0; n < kScoreTiles; ++n) {
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        scores[n][i] = expand_exp2((scores[n][i] - top) * scale_log2);
        sum += scores[n][i];
      }
    }
    softmax.sum[half] = softmax.sum[half] * shrink + sum;
#pragma unroll
    for (int n = 0; n < W / 8; ++n) {
      out[n][2 * half] *= shrink;
      out[n][2 * half + 1] *= shrink;
    }
  }
}

__device__ void drop_scores(float (&scores)[kScoreTiles][4], const DropoutRule& dropout,
                            const FlashShape& shape, std::int64_t sequence, int head,
                            std::int64_t first_query, std::int64_t first_key) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int n = 0; n < kScoreTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      scores[n][i] *=
          attention_factor(dropout, shape, sequence, head, first_query + lane / 4 + i / 2 * 8,
                           first_key + 8 * n + lane % 4 * 2 + i % 2);
    }
  }
}

// One block: 64 queries of one head. Keys come tile by tile, the next one while this one is used.
template <typename T, int W>
__global__ void flash_forward_kernel(FlashShape shape, HeadMatrix<const T> q, HeadMatrix<const T> k,
                                     HeadMatrix<const T> v, DropoutRule dropout, HeadMatrix<T> out,
                                     float* lse) {
  // The longest rows of a causal mask first, so that the last blocks to run are short.
  const int tile = shape.tiles - 1 - static_cast<int>(blockIdx.x) % shape.tiles;
  const int head = static_cast<int>(blockIdx.x) / shape.tiles % shape.heads;
  const std::int64_t sequence = static_cast<int>(blockIdx.x) / shape.tiles / shape.heads;
  const int kv_head = head / shape.group();
  const std::int64_t first = static_cast<std::int64_t>(tile) * kTileRows;
  const int row = static_cast<int>(threadIdx.x) / kWarp * kWarpRows;

  T* shared = dynamic_shared<T>();
  constexpr int kTileElements = kTileRows * W;
  const Tile<T, W> queries{shared};
  const auto keys = [&](int stage) { return Tile<T, W>{shared + (1 + 2 * stage) * kTileElements}; };
  const auto values = [&](int stage) {
    return Tile<T, W>{shared + (2 + 2 * stage) * kTileElements};
  };
  const HeadRows<const T> key_rows = k.head(shape, sequence, kv_head);
  const HeadRows<const T> value_rows = v.head(shape, sequence, kv_head);
  const int key_tiles = shape.causal ? tile + 1 : shape.tiles;

  load_tile<kTileRows>(queries, q.head(shape, sequence, head), first, shape.length, shape.width);
  load_tile<kTileRows>(keys(0), key_rows, 0, shape.length, shape.width);
  load_tile<kTileRows>(values(0), value_rows, 0, shape.length, shape.width);
  copy_async_commit();

  float result[W / 8][4];
  clear(result);
  RunningSoftmax softmax{{-INFINITY, -INFINITY}, {0.0F, 0.0F}};
  for (int j = 0; j < key_tiles; ++j) {
    const std::int64_t first_key = static_cast<std::int64_t>(j) * kTileRows;
    if (j + 1 < key_tiles) {
      load_tile<kTileRows>(keys((j + 1) % 2), key_rows, first_key + kTileRows, shape.length,
                           shape.width);
      load_tile<kTileRows>(values((j + 1) % 2), value_rows, first_key + kTileRows, shape.length,
                           shape.width);
    }
    copy_async_commit();
    copy_async_wait<1>();
    sync_threads();
    float scores[kScoreTiles][4];
    clear(scores);
    multiply_rows(scores, queries, row, keys(j % 2));
    if (j + 1 == key_tiles) mask_scores(scores, shape, first + row, first_key);
    update_softmax<W>(scores, softmax, result, shape.scale_log2);
    if (dropout.active) drop_scores(scores, dropout, shape, sequence, head, first + row, first_key);
    multiply_weights(result, scores, values(j % 2));
    sync_threads();
  }

  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float factor[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float sum = combine_lanes(softmax.sum[half], AddOf{}, 4);
    factor[half] = 1.0F / sum;
    const std::int64_t query = first + row + lane / 4 + half * 8;
    if (lane % 4 == 0 && query < shape.length) {
      lse[(sequence * shape.heads + head) * shape.length + query] =
          softmax.maximum[half] * shape.scale + logf(sum);
    }
  }
  store_rows(result, factor[0], factor[1], queries, row, out.head(shape, sequence, head), first,
             shape.length, shape.width);
}

}  // namespace

bool flash_serves(const AttentionSpec& spec, std::initializer_list<ConstTensorView> views) {
  if (spec.head_width % kLane != 0 || spec.head_width > 128) return false;
  return std::all_of(views.begin(), views.end(), [](const ConstTensorView& view) {
    return core::size_of(view.dtype()) == 2 && on_16_bytes(view.raw()) &&
           view.row_stride() % kLane == 0;
  });
}

void flash_attention_forward(OpContext& context, const AttentionSpec& spec, ConstTensorView q,
                             ConstTensorView k, ConstTensorView v, TensorView out, TensorView lse) {
  if (!flash_serves(spec, {q, k, v, out})) {
    cuda::attention_forward(context, spec, q, k, v, out, lse);
    return;
  }
  const FlashShape shape(spec);
  const DropoutRule dropout(spec.dropout, spec.heads * spec.length * spec.length);
  const unsigned blocks = block_count(spec.sequences * spec.heads * shape.tiles);
  visit_flash(q.dtype(), shape.width, [&](auto type, auto padded) {
    using T = decltype(type);
    constexpr int W = decltype(padded)::value;
    launch("flash_forward", flash_forward_kernel<T, W>,
           Grid{blocks, kFlashThreads, 5 * tile_bytes<W>(kTileRows)}, context.stream(), shape,
           heads_of<const T>(q), heads_of<const T>(k), heads_of<const T>(v), dropout,
           heads_of<T>(out), pointer_of<float>(lse));
  });
}

}  // namespace lockstep::models::ops::cuda
