#pragma once

#include <cstdint>
#include <span>

#include "core/tensor.h"
#include "ops/op_context.h"

namespace lockstep::ops {

// out[n] = token_table[tokens[n]] + positions[n mod T] + type_row; positions: [>= T, C] or empty;
// type_row: [C] or empty. Sums in the accumulate dtype, rounded once. Throws Error(kData) naming a
// token id outside the table.
void embedding_forward(OpContext& context, std::span<const std::int32_t> tokens,
                       std::int64_t length, core::ConstTensorView token_table,
                       core::ConstTensorView positions, core::ConstTensorView type_row,
                       core::TensorView out);

// Gradient of rows [row_begin, row_end) of the token table into dtable [row_end - row_begin, C],
// overwritten: the sum of dx[n] over n with that token, in order of n, accumulated in fp32, plus
// `add` ([rows, C] in the accumulate dtype, or empty: the head's share of a tied table), rounded
// once.
void embedding_backward(OpContext& context, std::span<const std::int32_t> tokens,
                        core::ConstTensorView dx, std::int64_t row_begin, std::int64_t row_end,
                        core::ConstTensorView add, core::TensorView dtable);

// dpositions[t] = sum over the B sequences of dx[b*T + t] for t < T; rows from T on become 0.
// Overwritten.
void position_backward(OpContext& context, core::ConstTensorView dx, std::int64_t length,
                       core::TensorView dpositions);

}  // namespace lockstep::ops
