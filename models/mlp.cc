#include "models/mlp.h"

#include <fmt/format.h>

#include "core/check.h"

namespace lockstep::models {

using core::ConstTensorView;
using core::TensorView;

ops::ActivationFunction pointwise_function(Activation activation) {
  switch (activation) {
    case Activation::kGelu:
      return ops::ActivationFunction::kGelu;
    case Activation::kGeluTanh:
    case Activation::kGeGlu:
      return ops::ActivationFunction::kGeluTanh;
    case Activation::kRelu:
      return ops::ActivationFunction::kRelu;
    case Activation::kLeakyRelu:
      return ops::ActivationFunction::kLeakyRelu;
    case Activation::kElu:
      return ops::ActivationFunction::kElu;
    case Activation::kSilu:
    case Activation::kSwiGlu:
      return ops::ActivationFunction::kSilu;
  }
  core::fail_check(__FILE__, __LINE__, "activation", "unknown activation");
}

Mlp::Mlp(const ModelConfig& config, const ParameterTable& table, int block)
    : function_(pointwise_function(config.activation)) {
  const std::string name = fmt::format("block.{}.mlp.", block);
  gate_ = LinearLayer::find(table, name + "gate");
  up_ = LinearLayer::find(table, name + "up");
  down_ = LinearLayer::find(table, name + "down");
}

void Mlp::forward_activated(const Pass& pass, const MlpSlots& slots, ConstTensorView x) const {
  const std::int64_t ffn_width = pass.config.ffn_width;
  const TensorView up = pass.tokens(slots.up, ffn_width);
  const TensorView activated = pass.tokens(slots.activated, ffn_width);
  if (pass.config.gated()) {
    linear_forward(pass, up_, x, up);
    const TensorView gate = pass.tokens(slots.gate, ffn_width);
    linear_forward(pass, gate_, x, gate);
    ops::gated_activation_forward(pass.ops, function_, gate, up, activated);
  } else {
    linear_activation_forward(pass, up_, function_, x, up, activated);
  }
}

void Mlp::project_output(const Pass& pass, const MlpSlots& slots, TensorView y) const {
  linear_forward(pass, down_, pass.tokens(slots.activated, pass.config.ffn_width), y);
}

void Mlp::backward(const Pass& pass, const MlpSlots& slots, ConstTensorView dy, ConstTensorView x,
                   BlockGradients& gradients, TensorView dx) const {
  const std::int64_t ffn_width = pass.config.ffn_width;
  const TensorView up = pass.tokens(slots.up, ffn_width);
  const TensorView dactivated = pass.tokens(pass.gradients().wide, ffn_width);
  const auto weight_backward = [&](const LinearLayer& layer, ConstTensorView dout,
                                   ConstTensorView in) {
    linear_weight_backward(pass, dout, in, gradients.gradient(layer.weight),
                           gradients.gradient(layer.bias));
  };
  weight_backward(down_, dy, pass.tokens(slots.activated, ffn_width));

  if (!pass.config.gated()) {
    const TensorView dup = dactivated;
    linear_activation_backward(pass, down_, function_, dy, up, dup, gradients.gradient(up_.bias));
    linear_weight_backward(pass, dup, x, gradients.gradient(up_.weight), {});
    linear_input_backward(pass, up_, dup, dx);
    return;
  }
  linear_input_backward(pass, down_, dy, dactivated);
  const TensorView gate = pass.tokens(slots.gate, ffn_width);
  const TensorView dgate = gate;
  const TensorView dup = up;
  ops::gated_activation_backward(pass.ops, function_, gate, up, dactivated, dgate, dup);
  weight_backward(gate_, dgate, x);
  weight_backward(up_, dup, x);
  const TensorView part = pass.stream(pass.gradients().branch);
  linear_input_backward(pass, gate_, dgate, dx);
  linear_input_backward(pass, up_, dup, part);
  add_in_place(pass.ops, dx, part);
}

}  // namespace lockstep::models
