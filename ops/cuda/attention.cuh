#pragma once

#include "ops/attention.h"
#include "ops/cuda/dropout.cuh"

namespace lockstep::ops::cuda {

// Attention as kernels take it.
struct AttentionShape {
  std::int64_t length;
  std::int64_t heads;
  std::int64_t kv_heads;
  std::int64_t head_width;
  bool causal;
  std::int64_t window;  // causal: how many keys a query sees
  float scale;

  explicit AttentionShape(const AttentionSpec& spec)
      : length(spec.length),
        heads(spec.heads),
        kv_heads(spec.kv_heads),
        head_width(spec.head_width),
        causal(spec.causal),
        window(spec.window > 0 ? spec.window : spec.length),
        scale(static_cast<float>(spec.scale)) {}

  __device__ std::int64_t group() const { return heads / kv_heads; }
  __device__ bool sees(std::int64_t query, std::int64_t key) const {
    return key < length && query < length && (!causal || (key <= query && query - key < window));
  }
};

// Of one probability: element (h*T + query)*T + key of the sequence.
__device__ inline float probability_factor(const DropoutRule& dropout, const AttentionShape& s,
                                           std::int64_t sequence, std::int64_t head,
                                           std::int64_t query, std::int64_t key) {
  if (!dropout.active) return 1.0F;
  return dropout.one(dropout.first_sequence + sequence, (head * s.length + query) * s.length + key);
}

// The sequence and head of a block that works on `tiles` tiles of each of `heads` heads.
struct HeadTile {
  std::int64_t sequence;
  std::int64_t head;
  std::int64_t tile;

  __device__ HeadTile(std::int64_t block, std::int64_t heads, std::int64_t tiles)
      : sequence(block / (heads * tiles)), head(block / tiles % heads), tile(block % tiles) {}
};

inline DropoutRule attention_dropout(const AttentionSpec& spec) {
  return DropoutRule(spec.dropout, spec.heads * spec.length * spec.length);
}

}  // namespace lockstep::ops::cuda
