#include "ops/cpu/block_transpose.h"

#include <cstring>
#include <utility>

namespace lockstep::ops::cpu {
namespace {

// Square tiles of one vector's width, so that a tile is as many vectors as a vector has lanes.
#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
};
template <typename T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

// a0 b0 a1 b1 ... from the lower (Half 0) or upper (Half 1) halves of a and b.
template <typename T, int Half, int... I>
typename VectorOf<T>::type interleave(typename VectorOf<T>::type a, typename VectorOf<T>::type b,
                                      std::integer_sequence<int, I...>) {
  constexpr int kHalf = kLanes<T> / 2;
  return __builtin_shufflevector(a, b, (Half * kHalf + I / 2 + (I % 2) * kLanes<T>)...);
}

// Interleaving row i with row i + n/2, for all i, moves the highest bit of the row number into the
// lowest bit of the column number; log2(n) times exchanges the two numbers.
template <typename T>
void transpose_tile(Block<const T> from, Block<T> to) {
  using Vector = typename VectorOf<T>::type;
  constexpr int kRows = kLanes<T>;
  constexpr auto kSequence = std::make_integer_sequence<int, kRows>{};
  Vector rows[kRows];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
    std::memcpy(&rows[i], from.row(i), sizeof(Vector));
#pragma GCC unroll 4
  for (int step = 1; step < kRows; step *= 2) {
    Vector next[kRows];
#pragma GCC unroll 8
    for (int i = 0; i < kRows / 2; ++i) {
      next[2 * i] = interleave<T, 0>(rows[i], rows[i + kRows / 2], kSequence);
      next[2 * i + 1] = interleave<T, 1>(rows[i], rows[i + kRows / 2], kSequence);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i)
      rows[i] = next[i];
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
    std::memcpy(to.row(i), &rows[i], sizeof(Vector));
}

}  // namespace

template <typename T>
void transpose_block(std::int64_t rows, std::int64_t cols, Block<const T> from, Block<T> to) {
  for (std::int64_t r = 0; r < rows; r += kLanes<T>) {
    for (std::int64_t c = 0; c < cols; c += kLanes<T>)
      transpose_tile(from.rows_from(r).columns_from(c), to.rows_from(c).columns_from(r));
  }
}

template void transpose_block<float>(std::int64_t, std::int64_t, Block<const float>, Block<float>);
template void transpose_block<double>(std::int64_t, std::int64_t, Block<const double>,
                                      Block<double>);

template void transpose_block<BFloat16Pair>(std::int64_t, std::int64_t, Block<const BFloat16Pair>,
                                            Block<BFloat16Pair>);

}  // namespace lockstep::ops::cpu
