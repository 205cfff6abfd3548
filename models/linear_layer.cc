#include "models/linear_layer.h"

#include "models/ops/matmul.h"
#include "models/ops/reduce.h"

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

void linear_weight_backward(const Pass& pass, core::ConstTensorView dy, core::ConstTensorView x,
                            core::TensorView dweight, core::TensorView dbias) {
  ops::matmul(pass.ops, dy, Transpose::kYes, x, Transpose::kNo, dweight);
  if (!dbias.empty()) ops::column_sum(pass.ops, dy, dbias);
}

}  // namespace lockstep::models
