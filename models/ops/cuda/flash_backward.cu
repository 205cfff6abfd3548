#include "models/ops/cuda/bodies.h"
#include "models/ops/cuda/flash_backward_kv.cuh"
#include "models/ops/cuda/flash_backward_q.cuh"

namespace lockstep::models::ops::cuda {

namespace {

constexpr float kLog2E = 1.4426950408889634F;
constexpr int kSumThreads = 256;

// The sums of every query and head, W / 8 lanes each.
template <typename T, int W>
__global__ void flash_delta_kernel(FlashShape shape, HeadMatrix<const T> out,
                                   HeadMatrix<const T> dout, const float* lse, std::int64_t count,
                                   std::int64_t padded, float* lse_log2, float* minus_delta) {
  constexpr int kLanes = W / kLane;
  const std::int64_t index =
      static_cast<std::int64_t>(blockIdx.x) * (kSumThreads / kLanes) + threadIdx.x / kLanes;
  const std::int64_t sequence_head = index / padded;
  const std::int64_t position = index - sequence_head * padded;
  const std::int64_t sequence = sequence_head / shape.heads;
  const auto head = static_cast<int>(sequence_head % shape.heads);
  const int column = static_cast<int>(threadIdx.x) % kLanes * kLane;
  const bool there = index < count && position < shape.length;
  float sum = 0.0F;
  if (there && column < shape.width) {
    float a[kLane];
    float b[kLane];
    load(out.head(shape, sequence, head).row(position) + column, kLane, true, a);
    load(dout.head(shape, sequence, head).row(position) + column, kLane, true, b);
#pragma unroll
    for (int i = 0; i < kLane; ++i)
      sum += a[i] * b[i];
  }
  sum = combine_lanes(sum, AddOf{}, kLanes);
  if (column == 0 && index < count) {
    lse_log2[index] = there ? lse[sequence_head * shape.length + position] * kLog2E : INFINITY;
    minus_delta[index] = -sum;
  }
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
  const std::int64_t padded = static_cast<std::int64_t>(shape.tiles) * kTileRows;
  const std::int64_t count = spec.sequences * spec.heads * padded;
  Carver carver(context.scratch(2 * Carver::bytes<float>(count)));
  auto* lse_log2 = carver.take<float>(count);
  auto* minus_delta = carver.take<float>(count);
  visit_flash(q.dtype(), shape.width, dropout.active, [&](auto type, auto width, auto drops) {
    using T = decltype(type);
    constexpr int W = decltype(width)::value;
    constexpr bool kDrops = decltype(drops)::value;
    using KvPlan = BackwardKvPlan<W>;
    using QPlan = BackwardQPlan<W>;
    launch("flash_delta", flash_delta_kernel<T, W>,
           Grid{block_count(ceil_div(count, kSumThreads / (W / kLane))), kSumThreads, 0},
           context.stream(), shape, heads_of<const T>(out), heads_of<const T>(dout),
           pointer_of<const float>(lse), count, padded, lse_log2, minus_delta);
    const BackwardOperands<T> operands{shape,
                                       heads_of<const T>(q),
                                       heads_of<const T>(k),
                                       heads_of<const T>(v),
                                       heads_of<const T>(dout),
                                       QuerySums{lse_log2, minus_delta, padded},
                                       dropout,
                                       heads_of<T>(dq),
                                       heads_of<T>(dk),
                                       heads_of<T>(dv)};
    launch("flash_backward_kv", flash_backward_kv_kernel<T, W, kDrops>,
           Grid{block_count(spec.sequences * spec.kv_heads * shape.tiles), KvPlan::kThreads,
                KvPlan::kShared},
           context.stream(), operands);
    launch("flash_backward_q", flash_backward_q_kernel<T, W, kDrops>,
           Grid{block_count(spec.sequences * spec.heads * shape.tiles), QPlan::kThreads,
                QPlan::kShared},
           context.stream(), operands);
  });
}

}  // namespace lockstep::models::ops::cuda
