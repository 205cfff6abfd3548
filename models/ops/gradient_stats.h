#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "models/ops/op_context.h"

namespace lockstep::models::ops {

// Elements that are inf or NaN.
struct NonFinite {
  std::int64_t inf = 0;
  std::int64_t nan = 0;
  std::int64_t total() const { return inf + nan; }
};
NonFinite count_nonfinite(OpContext& context, core::ConstTensorView x);

// Sum of squares in fp64. The sum is taken per block of 64 consecutive elements (the last may be
// shorter) by one fixed order and the blocks are added exactly (see exact_sum.h), so that the
// result does not depend on where shards begin or on threads.
inline constexpr std::int64_t kNormBlock = 64;

// One fp64 sum per block of 64 elements, into blocks[ceil(n/64)], which lie where x lies.
void block_sums_of_squares(OpContext& context, core::ConstTensorView x, double* blocks);

}  // namespace lockstep::models::ops
