#pragma once

#include <cstdint>
#include <type_traits>

#include "core/dtype.h"

// Rows of any floating dtype in and out of the type that arithmetic is done in: float for fp32,
// bf16 and fp16, double for fp64 (core::AccumulateT).
namespace lockstep::ops::cpu {

// to[0, n) = from[0, n), exact.
template <typename T>
void load_row(const T* from, core::AccumulateT<T>* to, std::int64_t n) {
  core::convert(from, to, static_cast<std::size_t>(n));
}

// to[0, n) = from[0, n), rounded to nearest even. from may be to where the types are equal.
template <typename T>
void store_row(const core::AccumulateT<T>* from, T* to, std::int64_t n) {
  core::convert(from, to, static_cast<std::size_t>(n));
}

// The row itself where T is the arithmetic type, else its copy in scratch[0, n).
template <typename T>
const core::AccumulateT<T>* row_values(const T* row, core::AccumulateT<T>* scratch,
                                       std::int64_t n) {
  if constexpr (std::is_same_v<T, core::AccumulateT<T>>) {
    return row;
  } else {
    load_row(row, scratch, n);
    return scratch;
  }
}

// Where to compute a row that ends up at `row`: the row itself where T is the arithmetic type, else
// scratch. Follow with store_row(result, row, n), which is then free in the first case.
template <typename T>
core::AccumulateT<T>* row_target(T* row, core::AccumulateT<T>* scratch) {
  if constexpr (std::is_same_v<T, core::AccumulateT<T>>) {
    return row;
  } else {
    return scratch;
  }
}

}  // namespace lockstep::ops::cpu
