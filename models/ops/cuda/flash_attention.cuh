#pragma once

#include <algorithm>
#include <type_traits>

#include "models/ops/attention.h"
#include "models/ops/cuda/dropout.cuh"
#include "models/ops/cuda/flash_tiles.cuh"

// Flash attention on tensor cores (Dao et al. 2022; Dao 2023) for bf16 and fp16: no matrix of T x T
// in memory, sums in fp32, backward as two kernels without atomics, so that the same call gives the
// same bits. The host's half: shapes, and which kernel serves a call.
namespace lockstep::models::ops::cuda {

struct FlashShape {
  std::int64_t length;
  int heads;
  int kv_heads;
  int width;  // of a head: a multiple of 8, at most the W of the kernel
  bool causal;
  float scale;       // of scores
  float scale_log2;  // scale * log2(e)
  int tiles;         // of kTileRows positions

  explicit FlashShape(const AttentionSpec& spec)
      : length(spec.length),
        heads(static_cast<int>(spec.heads)),
        kv_heads(static_cast<int>(spec.kv_heads)),
        width(static_cast<int>(spec.head_width)),
        causal(spec.causal),
        scale(static_cast<float>(spec.scale)),
        scale_log2(static_cast<float>(spec.scale * 1.4426950408889634)),
        tiles(static_cast<int>(ceil_div(spec.length, kTileRows))) {}

  __device__ int group() const { return heads / kv_heads; }
};

// Rows of all heads of all sequences: [B*T, heads * width].
template <typename T>
struct HeadMatrix {
  T* data;
  std::int64_t stride;

  __device__ HeadRows<T> head(const FlashShape& shape, std::int64_t sequence, int head) const {
    return {data + sequence * shape.length * stride + static_cast<std::int64_t>(head) * shape.width,
            stride};
  }
};

template <typename T>
HeadMatrix<T> heads_of(const ConstTensorView& view) {
  return {pointer_of<T>(view), view.row_stride()};
}

// Whether the kernels below can serve a call: 16-bit, heads of a multiple of 8 up to 128, rows on
// 16 bytes. Others are served by the plain kernels.
bool flash_serves(const AttentionSpec& spec, std::initializer_list<ConstTensorView> views);

// Calls f(T{}, integral_constant<int, W>) for the element type and the padded width of a head.
template <typename F>
void visit_flash(DType dtype, int width, F&& f) {
  const auto with_width = [&](auto type) {
    if (width <= 64) {
      f(type, std::integral_constant<int, 64>{});
    } else {
      f(type, std::integral_constant<int, 128>{});
    }
  };
  if (dtype == DType::kBF16) {
    with_width(BF16{});
  } else {
    with_width(F16{});
  }
}

template <int W>
constexpr std::size_t tile_bytes(int rows) {
  return static_cast<std::size_t>(rows) * W * 2;
}

// The factor that dropout gives the probability of (query, key); element index as in attention.h.
// Words are chosen one by one: indexing them would put them into local memory.
__device__ inline float attention_factor(const DropoutRule& dropout, const FlashShape& shape,
                                         std::int64_t sequence, int head, std::int64_t query,
                                         std::int64_t key) {
  const std::int64_t element =
      (static_cast<std::int64_t>(head) * shape.length + query) * shape.length + key;
  const core::Philox4x32Block bits =
      core::stream_block(dropout.key, static_cast<std::uint64_t>(element / 4),
                         static_cast<std::uint64_t>(dropout.first_sequence + sequence));
  const auto word = static_cast<int>(element % 4);
  return dropout.factor(word < 2 ? (word == 0 ? bits[0] : bits[1])
                                 : (word == 2 ? bits[2] : bits[3]));
}

}  // namespace lockstep::models::ops::cuda
