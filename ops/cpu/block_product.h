#pragma once

#include <cstdint>

namespace lockstep::ops::cpu {

// Columns of the right factor and of the result come in multiples of this, the rest being padding.
inline constexpr std::int64_t kBlockPad = 16;

inline std::int64_t pad_block(std::int64_t n) {
  return (n + kBlockPad - 1) / kBlockPad * kBlockPad;
}

// A small dense matrix, rows `stride` elements apart.
template <typename T>
struct Block {
  T* data = nullptr;
  std::int64_t stride = 0;

  T* row(std::int64_t r) const { return data + r * stride; }
  Block columns_from(std::int64_t c) const { return {data + c, stride}; }
  Block rows_from(std::int64_t r) const { return {data + r * stride, stride}; }
  operator Block<const T>() const { return {data, stride}; }
};

// Two bfloat16 of neighbouring k, the one of even k in the lower half: the operands of a product
// that adds two terms at once.
using BFloat16Pair = std::uint32_t;

struct ProductSize {
  std::int64_t m = 0;  // any
  std::int64_t n = 0;  // a multiple of kBlockPad
  std::int64_t k = 0;  // any; counts pairs for BFloat16Pair
};

enum class LeftFactor { kAsIs, kTransposed };
enum class Result { kOverwrite, kAdd };

// c[m, n] = (or +=) op(a) b with a: [m, k], or [k, m] when transposed; b: [k, n]. For blocks that
// lie in the first-level cache: register tiles, one thread, no packing. Every element is the sum
// over k in ascending order, so its bits do not depend on m or n. E and C: float, double, or
// BFloat16Pair with float sums.
template <typename E, typename C>
void block_product(ProductSize size, LeftFactor left, Block<const E> a, Block<const E> b,
                   Result result, Block<C> c);

}  // namespace lockstep::ops::cpu
