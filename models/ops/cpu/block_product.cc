#include "models/ops/cpu/block_product.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace lockstep::models::ops::cpu {
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
constexpr std::int64_t kLanes = kVectorBytes / static_cast<std::int64_t>(sizeof(T));

template <typename T>
typename VectorOf<T>::type load(const T* from) {
  typename VectorOf<T>::type v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}

template <typename T>
void store(typename VectorOf<T>::type v, T* to) {
  std::memcpy(to, &v, sizeof(v));
}

// c[Rows, Vectors * lanes] of one register tile; a points at its first row (or column).
template <typename T, int Rows, int Vectors, LeftFactor Left>
void product_tile(std::int64_t k, Block<const T> a, Block<const T> b, Result result, Block<T> c) {
  using Vector = typename VectorOf<T>::type;
  Vector sum[Rows][Vectors];
  if (result == Result::kAdd) {
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; ++j)
        sum[i][j] = load(c.row(i) + j * kLanes<T>);
  } else {
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; ++j)
        sum[i][j] = Vector{};
  }
  for (std::int64_t p = 0; p < k; ++p) {
    Vector right[Vectors];
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j)
      right[j] = load(b.row(p) + j * kLanes<T>);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
      const T left = Left == LeftFactor::kTransposed ? a.row(p)[i] : a.row(i)[p];
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; ++j)
        sum[i][j] += left * right[j];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j)
      store<T>(sum[i][j], c.row(i) + j * kLanes<T>);
}

template <typename T>
using Tile = void (*)(std::int64_t, Block<const T>, Block<const T>, Result, Block<T>);

// The tiles of 1 ... kTileRows rows, at index rows - 1.
template <typename T, int Vectors, LeftFactor Left>
constexpr auto tiles_by_rows() {
  return []<int... I>(std::integer_sequence<int, I...>) {
    return std::array<Tile<T>, kTileRows>{product_tile<T, I + 1, Vectors, Left>...};
  }
  (std::make_integer_sequence<int, kTileRows>{});
}

template <typename T, LeftFactor Left>
void product(ProductSize size, Block<const T> a, Block<const T> b, Result result, Block<T> c) {
  static constexpr auto kWide = tiles_by_rows<T, kTileVectors, Left>();
  static constexpr auto kNarrow = tiles_by_rows<T, 1, Left>();
  for (std::int64_t j = 0; j < size.n;) {
    const bool wide = size.n - j >= kTileVectors * kLanes<T>;
    const auto& tiles = wide ? kWide : kNarrow;
    for (std::int64_t i = 0; i < size.m; i += kTileRows) {
      const std::int64_t rows = std::min<std::int64_t>(kTileRows, size.m - i);
      const auto a_tile = Left == LeftFactor::kTransposed ? a.columns_from(i) : a.rows_from(i);
      tiles[static_cast<std::size_t>(rows - 1)](size.k, a_tile, b.columns_from(j), result,
                                                c.rows_from(i).columns_from(j));
    }
    j += (wide ? kTileVectors : 1) * kLanes<T>;
  }
}

}  // namespace

template <typename T>
void block_product(ProductSize size, LeftFactor left, Block<const T> a, Block<const T> b,
                   Result result, Block<T> c) {
  if (left == LeftFactor::kTransposed) {
    product<T, LeftFactor::kTransposed>(size, a, b, result, c);
  } else {
    product<T, LeftFactor::kAsIs>(size, a, b, result, c);
  }
}

template void block_product<float>(ProductSize, LeftFactor, Block<const float>, Block<const float>,
                                   Result, Block<float>);
template void block_product<double>(ProductSize, LeftFactor, Block<const double>,
                                    Block<const double>, Result, Block<double>);

}  // namespace lockstep::models::ops::cpu
