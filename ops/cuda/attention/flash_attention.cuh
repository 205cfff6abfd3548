#pragma once

#include <algorithm>
#include <type_traits>

#include "ops/attention.h"
#include "ops/cuda/attention/flash_tiles.cuh"
#include "ops/cuda/dropout.cuh"

// Flash attention on tensor cores (Dao et al. 2022; Dao 2023) for bf16 and fp16: no matrix of T x T
// in memory, sums in fp32, backward as two kernels without atomics, so that the same call gives the
// same bits. The host's half: shapes, and which kernel serves a call.
namespace lockstep::ops::cuda {

// Positions are counted in 32 bits, which leaves the kernels registers.
inline constexpr std::int64_t kFlashLongest = std::int64_t{1} << 30;

struct FlashShape {
  int length;
  int heads;
  int kv_heads;
  int width;  // of a head: a multiple of 8, at most the W of the kernel
  bool causal;
  float scale;       // of scores
  float scale_log2;  // scale * log2(e)
  int tiles;         // of kTileRows positions

  explicit FlashShape(const AttentionSpec& spec)
      : length(static_cast<int>(spec.length)),
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

  __device__ HeadRows<T> head(const FlashShape& shape, int sequence, int head) const {
    return {data + static_cast<std::int64_t>(sequence) * shape.length * stride +
                static_cast<std::int64_t>(head) * shape.width,
            stride};
  }
};

template <typename T>
HeadMatrix<T> heads_of(const ConstTensorView& view) {
  return {pointer_of<T>(view), view.row_stride()};
}

// Whether the kernels below can serve a call: 16-bit, heads of a multiple of 8 up to 128, rows on
// 16 bytes, at most kFlashLongest positions. Others are served by the plain kernels.
bool flash_serves(const AttentionSpec& spec, std::initializer_list<ConstTensorView> views);

// Calls f(T{}, integral_constant<int, W>, bool_constant) for the element type, the padded width of
// a head and whether there is dropout, whose arithmetic would cost the others registers.
template <typename F>
void visit_flash(DType dtype, int width, bool drops, F&& f) {
  const auto with_drops = [&](auto type, auto padded) {
    if (drops) {
      f(type, padded, std::true_type{});
    } else {
      f(type, padded, std::false_type{});
    }
  };
  const auto with_width = [&](auto type) {
    if (width <= 64) {
      with_drops(type, std::integral_constant<int, 64>{});
    } else {
      with_drops(type, std::integral_constant<int, 128>{});
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

// What a block works on: kTileRows positions from `first` on, of one head of one sequence. Blocks
// of a head follow one another, so that those that run at the same time read the same rows.
struct FlashBlock {
  int first;
  int sequence;
  int head;
};

__device__ inline FlashBlock block_of(const FlashShape& shape, int heads, bool last_first) {
  const auto index = static_cast<int>(blockIdx.x);
  const int tile = index % shape.tiles;
  const int position = last_first ? shape.tiles - 1 - tile : tile;
  return {position * kTileRows, index / shape.tiles / heads, index / shape.tiles % heads};
}

// Steps of `keys` keys until the block's queries have met all that they see.
__device__ inline int steps_over_keys(const FlashShape& shape, const FlashBlock& block, int keys) {
  const int last = block.first + kTileRows;
  const int seen = shape.causal && last < shape.length ? last : shape.length;
  return (seen + keys - 1) / keys;
}

// Scores of queries from `first_query` on and keys from `first_key` on: -infinity for keys that the
// query does not see or that are not there. Steps that see all are passed by as a whole.
template <int kParts, int kTiles>
__device__ inline void mask_keys(float (&scores)[kParts][kTiles][4], const FlashShape& shape,
                                 int first_query, int first_key) {
  const int last_key = first_key + 8 * kTiles - 1;
  if (last_key < shape.length && (!shape.causal || last_key <= first_query)) return;
  const int present = shape.length - first_key;
  const int distance = first_query - first_key;
#pragma unroll
  for (int m = 0; m < kParts; ++m) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      // The first column that the row does not see, as seen from the lane's first one, so that an
      // element takes one comparison with a constant.
      const int seen = distance + row_of(m, i) + 1;
      const int hidden = (shape.causal && seen < present ? seen : present) - column_of(0, i);
#pragma unroll
      for (int n = 0; n < kTiles; ++n)
        if (8 * n >= hidden) scores[m][n][i] = -INFINITY;
    }
  }
}

}  // namespace lockstep::ops::cuda
