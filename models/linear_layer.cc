#include "models/linear_layer.h"

#include "ops/fused_matmul.h"
#include "ops/matmul.h"
#include "ops/reduce.h"

namespace lockstep::models {

using ops::Transpose;

LinearLayer LinearLayer::find(const ParameterTable& table, const std::string& name) {
  return {table.find(name + ".weight"), table.find(name + ".bias")};
}

void linear_forward(const Pass& pass, const LinearLayer& layer, core::ConstTensorView x,
                    core::TensorView y) {
  ops::matmul(pass.ops, x, Transpose::kNo, pass.parameter(layer.weight), Transpose::kYes, y,
              pass.parameter(layer.bias));
}

void linear_input_backward(const Pass& pass, const LinearLayer& layer, core::ConstTensorView dy,
                           core::TensorView dx) {
  ops::matmul(pass.ops, dy, Transpose::kNo, pass.parameter(layer.weight), Transpose::kNo, dx);
}

void linear_activation_forward(const Pass& pass, const LinearLayer& layer,
                               ops::ActivationFunction f, core::ConstTensorView x,
                               core::TensorView pre, core::TensorView y) {
  ops::matmul_activation_forward(pass.ops, f, x, pass.parameter(layer.weight),
                                 pass.parameter(layer.bias), pre, y);
}

void linear_activation_backward(const Pass& pass, const LinearLayer& layer,
                                ops::ActivationFunction f, core::ConstTensorView dy,
                                core::ConstTensorView pre, core::TensorView dpre,
                                core::TensorView dbias) {
  ops::matmul_activation_backward(pass.ops, f, dy, pass.parameter(layer.weight), pre, dpre, dbias);
}

void linear_weight_backward(const Pass& pass, core::ConstTensorView dy, core::ConstTensorView x,
                            core::TensorView dweight, core::TensorView dbias) {
  if (!dweight.empty()) {
    ops::matmul_weight_gradient(pass.ops, dy, x, dweight, dbias);
  } else if (!dbias.empty()) {
    ops::column_sum(pass.ops, dy, dbias);
  }
}

}  // namespace lockstep::models
