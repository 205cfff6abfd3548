#pragma once

#include <string>

#include "core/tensor.h"
#include "models/parameter_table.h"
#include "models/pass.h"

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

// dW = dy^T x; db = column sums of dy, unless dbias is empty.
void linear_weight_backward(const Pass& pass, core::ConstTensorView dy, core::ConstTensorView x,
                            core::TensorView dweight, core::TensorView dbias);

}  // namespace lockstep::models
