#pragma once

#include "core/tensor.h"
#include "ops/op_context.h"

namespace lockstep::ops {

// out[c] = sum over rows of x[n, c] (the gradient of a bias), in fixed chunks of rows, in the
// accumulate dtype, rounded once.
void column_sum(OpContext& context, core::ConstTensorView x, core::TensorView out);

}  // namespace lockstep::ops
