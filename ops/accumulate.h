#pragma once

#include "core/tensor.h"
#include "ops/op_context.h"

namespace lockstep::ops {

// sum = values (overwrite) or sum + values, in fp32. values: [n] of any floating dtype but fp64;
// sum: fp32 [n]. One pass.
void accumulate(OpContext& context, core::ConstTensorView values, bool overwrite,
                core::TensorView sum);

}  // namespace lockstep::ops
