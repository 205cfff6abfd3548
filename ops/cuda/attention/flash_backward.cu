#include "ops/cuda/attention/flash_backward_kv.cuh"
#include "ops/cuda/attention/flash_backward_q.cuh"
#include "ops/cuda/bodies.h"

namespace lockstep::ops::cuda {

namespace {

constexpr float kLog2E = 1.4426950408889634F;
constexpr int kSumThreads = 256;

// The sums of kTileRows queries of a head, W / 8 lanes each; those behind the last one included.
template <typename T, int W>
__global__ void flash_delta_kernel(FlashShape shape, HeadMatrix<const T> out,
                                   HeadMatrix<const T> dout, const float* lse, float* lse_log2,
                                   float* minus_delta) {
  constexpr int kLanes = W / kLane;
  const FlashBlock block = block_of(shape, shape.heads, false);
  const std::int64_t of_head = static_cast<std::int64_t>(block.sequence) * shape.heads + block.head;
  const std::int64_t padded = static_cast<std::int64_t>(shape.tiles) * kTileRows;
  const HeadRows<const T> out_rows = out.head(shape, block.sequence, block.head);
  const HeadRows<const T> dout_rows = dout.head(shape, block.sequence, block.head);
  const int column = static_cast<int>(threadIdx.x) % kLanes * kLane;
#pragma unroll
  for (int row = 0; row < kTileRows; row += kSumThreads / kLanes) {
    const int query = block.first + row + static_cast<int>(threadIdx.x) / kLanes;
    const bool there = query < shape.length;
    float sum = 0.0F;
    if (there && column < shape.width) {
      float a[kLane];
      float b[kLane];
      load(out_rows.row(query) + column, kLane, true, a);
      load(dout_rows.row(query) + column, kLane, true, b);
#pragma unroll
      for (int i = 0; i < kLane; ++i)
        sum += a[i] * b[i];
    }
    sum = combine_lanes(sum, AddOf{}, kLanes);
    if (column == 0) {
      const std::int64_t at = of_head * padded + query;
      lse_log2[at] = there ? lse[of_head * shape.length + query] * kLog2E : INFINITY;
      minus_delta[at] = -sum;
    }
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
           Grid{block_count(spec.sequences * spec.heads * shape.tiles), kSumThreads, 0},
           context.stream(), shape, heads_of<const T>(out), heads_of<const T>(dout),
           pointer_of<const float>(lse), lse_log2, minus_delta);
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

}  // namespace lockstep::ops::cuda
