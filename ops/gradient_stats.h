#pragma once

#include <cstdint>
#include <span>

#include "core/tensor.h"
#include "ops/exact_sum.h"
#include "ops/op_context.h"

namespace lockstep::ops {

// Elements that are inf or NaN.
struct NonFinite {
  std::int64_t inf = 0;
  std::int64_t nan = 0;
  std::int64_t total() const { return inf + nan; }
};
NonFinite count_nonfinite(OpContext& context, core::ConstTensorView x);  // waits for a device

// `count` consecutive elements of a vector, from `begin` on.
struct Range {
  std::int64_t begin = 0;
  std::int64_t count = 0;
};

// counts[i] = the elements of x that are inf or NaN in ranges[i]. x: [n], any floating dtype;
// counts lie where x lies (see Results), and are there when the work of the context is done.
void count_nonfinite_ranges(OpContext& context, core::ConstTensorView x,
                            std::span<const Range> ranges, NonFinite* counts);

struct SumOfSquares {
  ExactSum sum;
  NonFinite nonfinite;  // the elements of the range that are inf or NaN
};

// sums[i] = the sum of squares of ranges[i] of x in fp64: taken per block of 64 consecutive
// elements of the range (the last may be shorter) by one fixed order, and the blocks added exactly
// (see exact_sum.h), so that the result depends neither on where shards begin nor on threads nor on
// the device; and with it the elements that are not finite, which only a sum that is not either
// makes anybody count. x: [n], fp32, 16 bits, or on the CPU fp64; sums lie where x lies.
inline constexpr std::int64_t kNormBlock = 64;
void sums_of_squares(OpContext& context, core::ConstTensorView x, std::span<const Range> ranges,
                     SumOfSquares* sums);

}  // namespace lockstep::ops
