#pragma once

#include "core/tensor.h"
#include "models/gradient_buckets.h"
#include "models/linear_layer.h"
#include "models/parameter_table.h"
#include "models/pass.h"
#include "ops/activation.h"

namespace lockstep::models {

// The pointwise function of an activation; of a gated one, what is applied to the gate.
ops::ActivationFunction pointwise_function(Activation activation);

// The feed-forward layer of one block, without norm and residual:
//   y = f(x Wup^T + b) Wdown^T + b,  or gated  y = (f(x Wgate^T + b) * (x Wup^T + b)) Wdown^T + b
class Mlp {
 public:
  Mlp(const ModelConfig& config, const ParameterTable& table, int block);

  // x: [N, C] -> y: [N, C]; keeps `slots`.
  void forward(const Pass& pass, const MlpSlots& slots, core::ConstTensorView x,
               core::TensorView y) const {
    forward_activated(pass, slots, x);
    project_output(pass, slots, y);
  }
  // Its two halves: from x to what is kept, and from that to y.
  void forward_activated(const Pass& pass, const MlpSlots& slots, core::ConstTensorView x) const;
  void project_output(const Pass& pass, const MlpSlots& slots, core::TensorView y) const;

  // dy, x: [N, C] -> dx: [N, C] and the gradients of this layer's parameters. Overwrites slots.gate
  // and slots.up. dy may be the gradient slot `branch`, which serves as a temporary once dy is used
  // up; dx may be neither.
  void backward(const Pass& pass, const MlpSlots& slots, core::ConstTensorView dy,
                core::ConstTensorView x, BlockGradients& gradients, core::TensorView dx) const;

 private:
  ops::ActivationFunction function_;
  LinearLayer gate_, up_, down_;
};

}  // namespace lockstep::models
