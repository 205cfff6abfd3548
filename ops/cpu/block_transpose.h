#pragma once

#include <cstdint>

#include "ops/cpu/block_product.h"

namespace lockstep::ops::cpu {

// to[cols, rows] = transpose of from[rows, cols]; rows and cols are multiples of kBlockPad. T:
// float, double or BFloat16Pair (as one word).
template <typename T>
void transpose_block(std::int64_t rows, std::int64_t cols, Block<const T> from, Block<T> to);

}  // namespace lockstep::ops::cpu
