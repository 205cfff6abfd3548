#include "ops/cpu/block_product.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <utility>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace lockstep::ops::cpu {
namespace {

// A register tile of kTileRows x (kTileVectors vectors) plus one row of the right factor and one
// broadcast value fit the vector registers: 8 x 2 + 3 of 32 with AVX-512, 6 x 2 + 3 of 16 else.
#if defined(__AVX512F__)
constexpr std::int64_t kVectorBytes = 64;
constexpr int kTileRows = 8;
#elif defined(__AVX2__)
constexpr std::int64_t kVectorBytes = 32;
constexpr int kTileRows = 6;
#else
constexpr std::int64_t kVectorBytes = 16;
constexpr int kTileRows = 6;
#endif
constexpr int kTileVectors = 2;

template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
};
template <typename T>
using VectorT = typename VectorOf<T>::type;
template <typename T>
constexpr std::int64_t kLanes = kVectorBytes / static_cast<std::int64_t>(sizeof(T));

template <typename T>
VectorT<T> load(const T* from) {
  VectorT<T> v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}

template <typename T>
void store(VectorT<T> v, T* to) {
  std::memcpy(to, &v, sizeof(v));
}

template <typename T>
VectorT<T> multiply_add(T left, VectorT<T> right, VectorT<T> sum) {
  return sum + left * right;
}

#if defined(__AVX512BF16__)
VectorT<float> multiply_add(BFloat16Pair left, VectorT<BFloat16Pair> right, VectorT<float> sum) {
  const __m512i pair = _mm512_set1_epi32(static_cast<int>(left));
  return _mm512_dpbf16_ps(sum, std::bit_cast<__m512bh>(pair), std::bit_cast<__m512bh>(right));
}
#else
VectorT<float> multiply_add(BFloat16Pair left, VectorT<BFloat16Pair> right, VectorT<float> sum) {
  constexpr std::uint32_t kUpper = 0xffff0000U;
  sum += std::bit_cast<float>(left << 16) * std::bit_cast<VectorT<float>>(right << 16);
  sum += std::bit_cast<float>(left & kUpper) * std::bit_cast<VectorT<float>>(right & kUpper);
  return sum;
}
#endif

// c[Rows, Vectors * lanes] of one register tile; a points at its first row (or column).
template <typename E, typename C, int Rows, int Vectors, LeftFactor Left>
void product_tile(std::int64_t k, Block<const E> a, Block<const E> b, Result result, Block<C> c) {
  VectorT<C> sum[Rows][Vectors];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j)
      sum[i][j] = result == Result::kAdd ? load(c.row(i) + j * kLanes<C>) : VectorT<C>{};
  for (std::int64_t p = 0; p < k; ++p) {
    VectorT<E> right[Vectors];
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j)
      right[j] = load(b.row(p) + j * kLanes<E>);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
      const E left = Left == LeftFactor::kTransposed ? a.row(p)[i] : a.row(i)[p];
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; ++j)
        sum[i][j] = multiply_add(left, right[j], sum[i][j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j)
      store<C>(sum[i][j], c.row(i) + j * kLanes<C>);
}

template <typename E, typename C>
using Tile = void (*)(std::int64_t, Block<const E>, Block<const E>, Result, Block<C>);

// The tiles of 1 ... kTileRows rows, at index rows - 1.
template <typename E, typename C, int Vectors, LeftFactor Left>
constexpr auto tiles_by_rows() {
  return []<int... I>(std::integer_sequence<int, I...>) {
    return std::array<Tile<E, C>, kTileRows>{product_tile<E, C, I + 1, Vectors, Left>...};
  }
  (std::make_integer_sequence<int, kTileRows>{});
}

template <typename E, typename C, LeftFactor Left>
void product(ProductSize size, Block<const E> a, Block<const E> b, Result result, Block<C> c) {
  static constexpr auto kWide = tiles_by_rows<E, C, kTileVectors, Left>();
  static constexpr auto kNarrow = tiles_by_rows<E, C, 1, Left>();
  for (std::int64_t j = 0; j < size.n;) {
    const bool wide = size.n - j >= kTileVectors * kLanes<C>;
    const auto& tiles = wide ? kWide : kNarrow;
    for (std::int64_t i = 0; i < size.m; i += kTileRows) {
      const std::int64_t rows = std::min<std::int64_t>(kTileRows, size.m - i);
      const auto a_tile = Left == LeftFactor::kTransposed ? a.columns_from(i) : a.rows_from(i);
      tiles[static_cast<std::size_t>(rows - 1)](size.k, a_tile, b.columns_from(j), result,
                                                c.rows_from(i).columns_from(j));
    }
    j += (wide ? kTileVectors : 1) * kLanes<C>;
  }
}

}  // namespace

template <typename E, typename C>
void block_product(ProductSize size, LeftFactor left, Block<const E> a, Block<const E> b,
                   Result result, Block<C> c) {
  if (left == LeftFactor::kTransposed) {
    product<E, C, LeftFactor::kTransposed>(size, a, b, result, c);
  } else {
    product<E, C, LeftFactor::kAsIs>(size, a, b, result, c);
  }
}

template void block_product<float, float>(ProductSize, LeftFactor, Block<const float>,
                                          Block<const float>, Result, Block<float>);
template void block_product<double, double>(ProductSize, LeftFactor, Block<const double>,
                                            Block<const double>, Result, Block<double>);
template void block_product<BFloat16Pair, float>(ProductSize, LeftFactor, Block<const BFloat16Pair>,
                                                 Block<const BFloat16Pair>, Result, Block<float>);

}  // namespace lockstep::ops::cpu
