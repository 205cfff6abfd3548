#include "ops/cuda/attention/flash_dropout.cuh"
#include "ops/cuda/bodies.h"

namespace lockstep::ops::cuda {

namespace {

// How the work is cut for heads padded to W. Two blocks on a multiprocessor, so that one's products
// run beside the other's exponentials: 255 registers a thread.
template <int W>
struct ForwardPlan {
  static constexpr int kParts = 2;
  static constexpr int kThreads = BlockOf<kParts>::kThreads;
  static constexpr int kKeys = W == 64 ? 64 : 32;  // of a step
  static constexpr int kTiles = kKeys / 8;
  static constexpr bool kKeepQueries = W == 64;  // in registers
  static constexpr std::size_t kShared = tile_bytes<W>(kTileRows + 4 * kKeys);
};

template <typename T>
struct ForwardOperands {
  FlashShape shape;
  HeadMatrix<const T> q;
  HeadMatrix<const T> k;
  HeadMatrix<const T> v;
  DropoutRule dropout;
  HeadMatrix<T> out;
  float* lse;
};

// The running softmax of the rows that a lane's quad holds: lane/4 and lane/4 + 8 of each part.
template <int kParts>
struct RunningSoftmax {
  float maximum[kParts][2];
  float sum[kParts][2];  // of this lane's columns

  __device__ RunningSoftmax() {
#pragma unroll
    for (int m = 0; m < kParts; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        maximum[m][half] = -INFINITY;
        sum[m][half] = 0.0F;
      }
    }
  }
};

// Scores become exp(scale * (score - maximum)); what was summed up before is brought to the new
// maximum. Every row has met a key that it sees in its first step, so the maximum is finite.
template <int kParts, int kTiles, int kColumns>
__device__ void update_softmax(float (&scores)[kParts][kTiles][4], RunningSoftmax<kParts>& softmax,
                               float (&out)[kParts][kColumns][4], float scale_log2) {
#pragma unroll
  for (int m = 0; m < kParts; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float before = softmax.maximum[m][half];
      float top = before;
#pragma unroll
      for (int n = 0; n < kTiles; ++n)
        top = fmaxf(top, fmaxf(scores[m][n][2 * half], scores[m][n][2 * half + 1]));
      top = combine_lanes(top, MaximumOf{}, 4);
      softmax.maximum[m][half] = top;
      const float base = top * scale_log2;  // so that an element takes one fused instruction
      const float shrink = expand_exp2(before * scale_log2 - base);
      float sum = 0.0F;
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          scores[m][n][i] = expand_exp2(scores[m][n][i] * scale_log2 - base);
          sum += scores[m][n][i];
        }
      }
      softmax.sum[m][half] = softmax.sum[m][half] * shrink + sum;
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
        out[m][n][2 * half] *= shrink;
        out[m][n][2 * half + 1] *= shrink;
      }
    }
  }
}

// Probabilities, not yet divided by their sum, times the factors of dropout.
template <int kParts, int kTiles>
__device__ void drop_scores(float (&scores)[kParts][kTiles][4], const FlashDropout& dropout,
                            int first_query, int first_key) {
#pragma unroll
  for (int m = 0; m < kParts; ++m) {
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      float factors[4];
      dropout.query_rows(factors, first_query + m * kPartRows, first_key + 8 * n);
#pragma unroll
      for (int i = 0; i < 4; ++i)
        scores[m][n][i] *= factors[i];
    }
  }
}

// Sums become outputs: divides by the sums of the softmax and writes lse.
template <typename T, int W, int kParts>
__device__ void finish_rows(const ForwardOperands<T>& of, const FlashBlock& block, int row,
                            const float (&result)[kParts][W / 8][4],
                            const RunningSoftmax<kParts>& softmax, const Tile<T, W>& room) {
  const FlashShape& shape = of.shape;
  float factor[kParts][2];
#pragma unroll
  for (int m = 0; m < kParts; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = combine_lanes(softmax.sum[m][half], AddOf{}, 4);
      factor[m][half] = 1.0F / sum;
      const int query = block.first + row + row_of(m, 2 * half);
      if (lane_of_thread() % 4 == 0 && query < shape.length) {
        of.lse[(static_cast<std::int64_t>(block.sequence) * shape.heads + block.head) *
                   shape.length +
               query] = softmax.maximum[m][half] * shape.scale + logf(sum);
      }
    }
  }
  store_rows(
      result, [&](int m, int half) { return factor[m][half]; }, room, row,
      of.out.head(shape, block.sequence, block.head), block.first, shape.length, shape.width);
}

// One block: 128 queries of one head. Keys come step by step, the next ones while these are used.
template <typename T, int W, bool kDrops>
__global__ void __launch_bounds__(ForwardPlan<W>::kThreads, 2)
    flash_forward_kernel(ForwardOperands<T> of) {
  using Plan = ForwardPlan<W>;
  const FlashShape& shape = of.shape;
  // The longest rows of a causal mask first, so that the last blocks to run are short.
  const FlashBlock block = block_of(shape, shape.heads, true);
  const int row = warp_of_thread() * BlockOf<Plan::kParts>::kWarpRows;
  const int warp_first = block.first + row;

  T* shared = dynamic_shared<T>();
  const Tile<T, W> queries{shared};
  const auto keys = [&](int stage) {
    return Tile<T, W>{shared + (kTileRows + 2 * stage * Plan::kKeys) * W};
  };
  const auto values = [&](int stage) {
    return Tile<T, W>{shared + (kTileRows + (2 * stage + 1) * Plan::kKeys) * W};
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
  fetch(0);
  copy_async_wait<0>();
  sync_threads();
  const LeftRows<Plan::kKeepQueries, Plan::kParts, T, W> left(queries, row);

  float result[Plan::kParts][W / 8][4];
  clear(result);
  RunningSoftmax<Plan::kParts> softmax;
  const int steps = steps_over_keys(shape, block, Plan::kKeys);
  for (int step = 0; step < steps; ++step) {
    if (step > 0) {
      copy_async_wait<0>();
      sync_threads();  // these keys are there, and nobody uses those before them any longer
    }
    if (step + 1 < steps) fetch(step + 1);
    const int first_key = step * Plan::kKeys;
    if (shape.causal && first_key >= warp_first + BlockOf<Plan::kParts>::kWarpRows) continue;
    float scores[Plan::kParts][Plan::kTiles][4];
    clear(scores);
    multiply_rows(scores, left, keys(step % 2), 0);
    mask_keys(scores, shape, warp_first, first_key);
    update_softmax(scores, softmax, result, shape.scale_log2);
    if constexpr (kDrops) {
      drop_scores(scores, FlashDropout{of.dropout, shape, block.sequence, block.head}, warp_first,
                  first_key);
    }
    multiply_weights(result, scores, values(step % 2), 0);
  }
  finish_rows(of, block, row, result, softmax, queries);
}

}  // namespace

bool flash_serves(const AttentionSpec& spec, std::initializer_list<ConstTensorView> views) {
  if (spec.head_width % kLane != 0 || spec.head_width > 128) return false;
  if (spec.length > kFlashLongest || spec.window > 0) return false;
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
  visit_flash(q.dtype(), shape.width, dropout.active, [&](auto type, auto padded, auto drops) {
    using T = decltype(type);
    constexpr int W = decltype(padded)::value;
    launch(
        "flash_forward", flash_forward_kernel<T, W, decltype(drops)::value>,
        Grid{blocks, ForwardPlan<W>::kThreads, ForwardPlan<W>::kShared}, context.stream(),
        ForwardOperands<T>{shape, heads_of<const T>(q), heads_of<const T>(k), heads_of<const T>(v),
                           dropout, heads_of<T>(out), pointer_of<float>(lse)});
  });
}

}  // namespace lockstep::ops::cuda
