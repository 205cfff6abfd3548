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
  std::int64_t first;
  std::int64_t sequence;
  int head;
};

__device__ inline FlashBlock block_of(const FlashShape& shape, int heads, bool last_first) {
  const auto index = static_cast<int>(blockIdx.x);
  const int tile = index % shape.tiles;
  const int position = last_first ? shape.tiles - 1 - tile : tile;
  return {static_cast<std::int64_t>(position) * kTileRows, index / shape.tiles / heads,
          index / shape.tiles % heads};
}

// Steps of `keys` keys until the block's queries have met all that they see.
__device__ inline int steps_over_keys(const FlashShape& shape, const FlashBlock& block, int keys) {
  const std::int64_t last = block.first + kTileRows;
  const std::int64_t seen = shape.causal && last < shape.length ? last : shape.length;
  return static_cast<int>((seen + keys - 1) / keys);
}

// Scores of queries from `first_query` on and keys from `first_key` on: -infinity for keys that the
// query does not see or that are not there. Steps that see all are passed by as a whole.
template <int kParts, int kTiles>
__device__ inline void mask_keys(float (&scores)[kParts][kTiles][4], const FlashShape& shape,
                                 std::int64_t first_query, std::int64_t first_key) {
  const std::int64_t last_key = first_key + 8 * kTiles - 1;
  if (last_key < shape.length && (!shape.causal || last_key <= first_query)) return;
  const int present = static_cast<int>(shape.length - first_key);
  const int distance = static_cast<int>(first_query - first_key);
  for_each_element(scores, [&](float& score, int m, int n, int i) {
    const int column = column_of(n, i);
    if (column >= present || (shape.causal && column > distance + row_of(m, i))) score = -INFINITY;
  });
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
