#pragma once

#include "core/tensor.h"
#include "ops/op_context.h"

namespace lockstep::ops {

// Pointwise functions. gelu is the exact x * Phi(x) with erf; gelu_tanh the tanh form of Hendrycks
// & Gimpel; leaky_relu has slope 0.01, elu has alpha 1; silu is x * sigmoid(x).
enum class ActivationFunction { kGelu, kGeluTanh, kRelu, kLeakyRelu, kElu, kSilu, kTanh };

// y = f(x), any shape. y may be x (then backward is impossible).
void activation_forward(OpContext& context, ActivationFunction f, core::ConstTensorView x,
                        core::TensorView y);

// dx = dy * f'(x). dx may be dy.
void activation_backward(OpContext& context, ActivationFunction f, core::ConstTensorView x,
                         core::ConstTensorView dy, core::TensorView dx);

// y = f(gate) * up (Shazeer 2020): swiglu with kSilu, geglu with kGeluTanh.
void gated_activation_forward(OpContext& context, ActivationFunction f, core::ConstTensorView gate,
                              core::ConstTensorView up, core::TensorView y);

// dgate = dy * up * f'(gate); dup = dy * f(gate). dgate may be gate, dup may be up.
void gated_activation_backward(OpContext& context, ActivationFunction f, core::ConstTensorView gate,
                               core::ConstTensorView up, core::ConstTensorView dy,
                               core::TensorView dgate, core::TensorView dup);

}  // namespace lockstep::ops
