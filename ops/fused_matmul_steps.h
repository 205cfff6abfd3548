#pragma once

#include "ops/fused_matmul.h"

// The ops of fused_matmul.h one step after the other, by the bodies of the context: what every
// device does that has nothing better.
namespace lockstep::ops::in_steps {

void matmul_activation_forward(OpContext& context, ActivationFunction f, core::ConstTensorView x,
                               core::ConstTensorView weight, core::ConstTensorView bias,
                               core::TensorView pre, core::TensorView y);
void matmul_activation_backward(OpContext& context, ActivationFunction f, core::ConstTensorView dy,
                                core::ConstTensorView weight, core::ConstTensorView pre,
                                core::TensorView dpre, core::TensorView dbias);
void matmul_weight_gradient(OpContext& context, core::ConstTensorView dy, core::ConstTensorView x,
                            core::TensorView dweight, core::TensorView dbias);

}  // namespace lockstep::ops::in_steps
