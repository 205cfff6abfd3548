#pragma once

#include "core/tensor.h"
#include "ops/op_context.h"

namespace lockstep::ops {

// In place: x = factor * x, in the accumulate dtype and rounded once. x: [n], contiguous, any
// floating dtype.
void scale(OpContext& context, double factor, core::TensorView x);

}  // namespace lockstep::ops
