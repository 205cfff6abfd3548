#pragma once

#include "core/tensor.h"
#include "ops/op_context.h"

namespace lockstep::ops {

// y = (x - mean) * rstd * gain + bias by rows of [N, C] (Ba et al. 2016); variance from centred
// values. gain: [C]; bias: [C] or empty; mean, rstd: [N] in the accumulate dtype (fp32, fp64 for
// fp64), kept for backward. y may be x.
void layer_norm_forward(OpContext& context, core::ConstTensorView x, core::ConstTensorView gain,
                        core::ConstTensorView bias, double eps, core::TensorView y,
                        core::TensorView mean, core::TensorView rstd);

// dx = (gradient through the norm) + add, where add is [N, C] or empty (the gradient that flows
// past the norm through the residual) and may be dx itself. dgain: [C]; dbias: [C] or empty:
// overwritten, each summed over rows in fixed chunks in the accumulate dtype and rounded once. dx
// may be dy.
void layer_norm_backward(OpContext& context, core::ConstTensorView dy, core::ConstTensorView x,
                         core::ConstTensorView gain, core::ConstTensorView mean,
                         core::ConstTensorView rstd, core::ConstTensorView add, core::TensorView dx,
                         core::TensorView dgain, core::TensorView dbias);

}  // namespace lockstep::ops
