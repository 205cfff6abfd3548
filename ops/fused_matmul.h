#pragma once

#include "core/tensor.h"
#include "ops/activation.h"
#include "ops/matmul.h"
#include "ops/op_context.h"

// Products together with the pointwise work beside them, which a library may do in the same pass
// over memory. On the CPU, and wherever no library offers the combination, they are the separate
// ops in the order written here, to the bit. Where one does, intermediate results are not rounded
// to the dtype first, and column sums have the library's order. No output may overlap an input,
// but for what is said.
namespace lockstep::ops {

// pre = x weight^T + bias;  y = f(pre).
//   x: [M, K], weight: [N, K], bias: [N] or empty, pre and y: [M, N]; all of one floating dtype.
void matmul_activation_forward(OpContext& context, ActivationFunction f, core::ConstTensorView x,
                               core::ConstTensorView weight, core::ConstTensorView bias,
                               core::TensorView pre, core::TensorView y);

// From the gradient of what follows f: dpre = (dy weight) * f'(pre); dbias = column sums of dpre,
// unless it is empty.
//   dy: [M, K], weight: [K, N], pre and dpre: [M, N], dbias: [N]; all of one floating dtype.
void matmul_activation_backward(OpContext& context, ActivationFunction f, core::ConstTensorView dy,
                                core::ConstTensorView weight, core::ConstTensorView pre,
                                core::TensorView dpre, core::TensorView dbias);

// The gradients of a linear layer's parameters: dweight = dy^T x; dbias = column sums of dy, unless
// it is empty.
//   dy: [M, N], x: [M, K], dbias: [N], of one floating dtype; dweight: [N, K] of the same, or fp32.
void matmul_weight_gradient(OpContext& context, core::ConstTensorView dy, core::ConstTensorView x,
                            core::TensorView dweight, core::TensorView dbias);

}  // namespace lockstep::ops
