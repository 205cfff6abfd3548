#pragma once

#include "core/tensor.h"
#include "ops/op_context.h"

namespace lockstep::ops {

// y = x * rstd * gain, rstd = 1 / sqrt(mean(x^2) + eps) (Zhang & Sennrich 2019). Each row of [N,
// heads*D] is normalised in `heads` separate groups of D consecutive elements that share gain: [D]
// (heads = 1: the whole row; QK-norm: a head each). rstd: [N * heads] in the accumulate dtype, kept
// for backward. y may be x.
void rms_norm_forward(OpContext& context, core::ConstTensorView x, core::ConstTensorView gain,
                      double eps, std::int64_t heads, core::TensorView y, core::TensorView rstd);

// dx = (gradient through the norm) + add; add: like x or empty, may be dx itself; dx may be dy.
// dgain: [D], overwritten, summed over rows in fixed chunks in the accumulate dtype and rounded
// once.
void rms_norm_backward(OpContext& context, core::ConstTensorView dy, core::ConstTensorView x,
                       core::ConstTensorView gain, core::ConstTensorView rstd, std::int64_t heads,
                       core::ConstTensorView add, core::TensorView dx, core::TensorView dgain);

}  // namespace lockstep::ops
