#pragma once

#include <string>

#include "core/tensor.h"
#include "models/parameter_table.h"
#include "models/pass.h"
#include "ops/activation.h"

namespace lockstep::models {

// y = x W^T + b; W: [out, in], b: [out] or absent.
struct LinearLayer {
  ParameterId weight = kNoParameter;
  ParameterId bias = kNoParameter;

  // The layer `name` ("block.3.mlp.up") of the table.
  static LinearLayer find(const ParameterTable& table, const std::string& name);
};

// x: [N, in], y: [N, out]; rows may be strided.
void linear_forward(const Pass& pass, const LinearLayer& layer, core::ConstTensorView x,
                    core::TensorView y);

// dx = dy W
void linear_input_backward(const Pass& pass, const LinearLayer& layer, core::ConstTensorView dy,
                           core::TensorView dx);

// pre = x W^T + b, y = f(pre): the forward of a layer and of the function after it. pre, y: [N,
// out].
void linear_activation_forward(const Pass& pass, const LinearLayer& layer,
                               ops::ActivationFunction f, core::ConstTensorView x,
                               core::TensorView pre, core::TensorView y);

// The backward of a layer's input and of the function f before it, whose input was pre:
// dpre = (dy W) * f'(pre); dbias = column sums of dpre, unless it is empty. pre, dpre: [N, in].
void linear_activation_backward(const Pass& pass, const LinearLayer& layer,
                                ops::ActivationFunction f, core::ConstTensorView dy,
                                core::ConstTensorView pre, core::TensorView dpre,
                                core::TensorView dbias);

// dW = dy^T x; db = column sums of dy; either of them unless it is empty.
void linear_weight_backward(const Pass& pass, core::ConstTensorView dy, core::ConstTensorView x,
                            core::TensorView dweight, core::TensorView dbias);

}  // namespace lockstep::models
