#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "core/dtype.h"
#include "core/tensor.h"
#include "ops/cpu/block_product.h"
#include "ops/cpu/row_io.h"

// In which form the factors of attention's block products are held. fp32, fp64 and fp16: as the
// type that arithmetic is done in, one element to a word. bf16: as pairs, two elements to a word,
// which the machine multiplies at twice the rate; sums, softmax and statistics stay in fp32.
//
// A factor [r, c] is held in one of two forms:
//   rows:    [r, c / per word], a word holding neighbours in a row (products that sum over c)
//   stacked: [r / per word, c], a word holding neighbours in a column (products that sum over r)
// With one element to a word the two are the same, and nothing is moved.
namespace lockstep::ops::cpu {

template <typename T>
struct Operand {
  using Word = core::AccumulateT<T>;
  static constexpr std::int64_t kPerWord = 1;
};
template <>
struct Operand<core::BFloat16> {
  using Word = BFloat16Pair;
  static constexpr std::int64_t kPerWord = 2;
};
template <typename T>
using WordT = typename Operand<T>::Word;

// n elements in words; an odd last element shares its word with padding.
template <typename T>
constexpr std::int64_t words_of(std::int64_t n) {
  return (n + Operand<T>::kPerWord - 1) / Operand<T>::kPerWord;
}

// The width of a head padded so that both forms have a multiple of kBlockPad columns.
template <typename T>
std::int64_t operand_width(std::int64_t head_width) {
  return pad_block(words_of<T>(head_width)) * Operand<T>::kPerWord;
}

// Fills words [n, cols], stacked from rows [2n, cols] of bf16 held as rows.
void stack_pairs(std::int64_t n, std::int64_t cols, Block<const BFloat16Pair> rows,
                 Block<BFloat16Pair> stacked);
// One row of n values rounded to bf16; n is a multiple of kBlockPad.
void round_to_pairs(const float* values, std::int64_t n, BFloat16Pair* to);
// The same of two rows, stacked: to[i] holds (row0[i], row1[i]).
void round_to_stacked_pairs(const float* row0, const float* row1, std::int64_t n, BFloat16Pair* to);

// Rows [begin, begin + n) of one head, held as rows; zeros from the width of the head to
// `padded_width` and in rows [n, padded_rows).
template <typename T>
void load_head(core::ConstTensorView heads, std::int64_t begin, std::int64_t n, std::int64_t head,
               std::int64_t width, std::int64_t padded_rows, std::int64_t padded_width,
               Block<WordT<T>> to) {
  using Element = std::conditional_t<Operand<T>::kPerWord == 1, WordT<T>, T>;
  for (std::int64_t r = 0; r < padded_rows; ++r) {
    auto* row = reinterpret_cast<Element*>(to.row(r));
    const std::int64_t filled = r < n ? width : 0;
    const T* from = heads.row<T>(begin + std::min(r, n - 1)) + head * width;
    if constexpr (std::is_same_v<Element, T>) {
      std::copy_n(from, filled, row);
    } else {
      load_row(from, row, filled);
    }
    std::fill(row + filled, row + padded_width, Element{});
  }
}

// rows (of [n, cols] elements, rows up to the next whole word being zeros) in stacked form; `room`
// is where to put it if it must move.
template <typename T>
Block<WordT<T>> stack_rows(std::int64_t n, std::int64_t cols, Block<WordT<T>> rows,
                           Block<WordT<T>> room) {
  if constexpr (Operand<T>::kPerWord == 1) {
    return rows;
  } else {
    stack_pairs(words_of<T>(n), cols, rows, room);
    return room;
  }
}

// values [n, cols] as a factor held as rows; cols is a multiple of 2 * kBlockPad or padding
// follows.
template <typename T>
Block<WordT<T>> round_rows(std::int64_t n, std::int64_t cols, Block<core::AccumulateT<T>> values,
                           Block<WordT<T>> room) {
  if constexpr (Operand<T>::kPerWord == 1) {
    return values;
  } else {
    for (std::int64_t r = 0; r < n; ++r)
      round_to_pairs(values.row(r), cols, room.row(r));
    return room;
  }
}

// values [n, cols] as a stacked factor, zeros after an odd n.
template <typename T>
Block<WordT<T>> round_stacked(std::int64_t n, std::int64_t cols, Block<core::AccumulateT<T>> values,
                              Block<WordT<T>> room) {
  if constexpr (Operand<T>::kPerWord == 1) {
    return values;
  } else {
    if (n % 2 != 0) std::fill_n(values.row(n), cols, 0.0F);
    for (std::int64_t r = 0; r < n; r += 2)
      round_to_stacked_pairs(values.row(r), values.row(r + 1), cols, room.row(r / 2));
    return room;
  }
}

}  // namespace lockstep::ops::cpu
