#pragma once

#include "ops/cuda/attention/flash_attention.cuh"

// Dropout of probabilities in flash attention: the factors of the elements that lanes hold (see
// row_of and column_of), which are those of attention.h. A block of Philox gives four keys in a row
// their bits, and four lanes hold elements of the same four blocks: each computes one of them, and
// they exchange words. That takes a length of a multiple of 4; with others every element computes
// its block.
namespace lockstep::ops::cuda {

struct FlashDropout {
  const DropoutRule& rule;
  const FlashShape& shape;
  int sequence;
  int head;

  // Words are chosen one by one: indexing them would put them into local memory.
  __device__ float one(int query, int key) const {
    const core::Philox4x32Block bits = block(query, key);
    const auto word = static_cast<int>(element(query, key) % 4);
    return rule.factor(word < 2 ? (word == 0 ? bits[0] : bits[1])
                                : (word == 2 ? bits[2] : bits[3]));
  }

  // Factors of an n-tile of a part whose rows are queries and columns are keys. `query` and `key`
  // are those of the tile's first element; key is a multiple of 8.
  __device__ void query_rows(float (&factors)[4], int query, int key) const {
    const int lane = lane_of_thread();
    if (shape.length % 4 != 0) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        factors[i] = one(query + row_of(0, i), key + column_of(0, i));
      return;
    }
    // Of lanes 2 j and 2 j + 1, with keys 0, 1 and 2, 3 of the same four, the first one computes
    // the upper row and the second one the lower row.
    const bool second = lane % 2 != 0;
    const core::Philox4x32Block bits =
        block(query + lane / 4 + (second ? 8 : 0), key + lane % 4 / 2 * 4);
#pragma unroll
    for (std::size_t i = 0; i < 2; ++i) {
      const std::uint32_t other = shuffle_xor(second ? bits[i] : bits[i + 2], 1);
      factors[i] = rule.factor(second ? other : bits[i]);
      factors[i + 2] = rule.factor(second ? bits[i + 2] : other);
    }
  }

  // The same where rows are keys and columns are queries.
  __device__ void key_rows(float (&factors)[4], int query, int key) const {
    const int lane = lane_of_thread();
    if (shape.length % 4 != 0) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        factors[i] = one(query + column_of(0, i), key + row_of(0, i));
      return;
    }
    // Four lanes 4 apart have a key each of the same four. They need its word of the four blocks of
    // elements 0 to 3; the lane of key j computes that of element j. What follows transposes the
    // 4 x 4 words in two exchanges.
    const int j = lane / 4 % 4;
    const core::Philox4x32Block bits = block(query + column_of(0, j), key + row_of(0, j) / 4 * 4);
    std::uint32_t words[4];
    const bool odd = j % 2 != 0;
#pragma unroll
    for (std::size_t i = 0; i < 4; i += 2) {
      const std::uint32_t other = shuffle_xor(odd ? bits[i] : bits[i + 1], 4);
      words[i] = odd ? other : bits[i];
      words[i + 1] = odd ? bits[i + 1] : other;
    }
    const bool upper = j >= 2;
#pragma unroll
    for (std::size_t i = 0; i < 2; ++i) {
      const std::uint32_t other = shuffle_xor(upper ? words[i] : words[i + 2], 8);
      factors[i] = rule.factor(upper ? other : words[i]);
      factors[i + 2] = rule.factor(upper ? words[i + 2] : other);
    }
  }

 private:
  __device__ std::int64_t element(int query, int key) const {
    return (static_cast<std::int64_t>(head) * shape.length + query) * shape.length + key;
  }
  __device__ core::Philox4x32Block block(int query, int key) const {
    return core::stream_block(rule.key, static_cast<std::uint64_t>(element(query, key) / 4),
                              static_cast<std::uint64_t>(rule.first_sequence + sequence));
  }
};

}  // namespace lockstep::ops::cuda
