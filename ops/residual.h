#pragma once

#include "core/tensor.h"
#include "ops/dropout.h"
#include "ops/op_context.h"

namespace lockstep::ops {

// y = x + gate * dropout(branch), all [N, C]; gate: [1] or empty (1). y may be x (and may be branch
// when no gate is given).
void residual_forward(OpContext& context, core::ConstTensorView x, core::ConstTensorView branch,
                      core::ConstTensorView gate, const Dropout& dropout, core::TensorView y);

// dbranch = gate * dropout(dy); dgate = sum(dy * dropout(branch)) in fixed chunks, overwritten. (dx
// = dy: nothing to do.) branch is read only with a gate; gate, dgate, branch empty otherwise.
// dbranch may be dy.
void residual_backward(OpContext& context, core::ConstTensorView dy, core::ConstTensorView branch,
                       core::ConstTensorView gate, const Dropout& dropout, core::TensorView dbranch,
                       core::TensorView dgate);

}  // namespace lockstep::ops
