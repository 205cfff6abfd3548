#include "models/ops/activation.h"

#include "models/ops/cpu/bodies.h"
#include "models/ops/op_checks.h"

namespace lockstep::models::ops {

using core::ConstTensorView;
using core::TensorView;

namespace {

void check_like(const char* op, const char* name, const ConstTensorView& view,
                const ConstTensorView& model) {
  check_matrix(op, name, view, model.dtype(), model.rows(), model.cols());
}

}  // namespace

void activation_forward(OpContext& context, ActivationFunction f, ConstTensorView x, TensorView y) {
  constexpr const char* kOp = "activation_forward";
  check_on_cpu(kOp, {x, y});
  check_like(kOp, "y", y, x);
  cpu::activation_forward(context, f, x, y);
}

void activation_backward(OpContext& context, ActivationFunction f, ConstTensorView x,
                         ConstTensorView dy, TensorView dx) {
  constexpr const char* kOp = "activation_backward";
  check_on_cpu(kOp, {x, dy, dx});
  check_like(kOp, "dy", dy, x);
  check_like(kOp, "dx", dx, x);
  cpu::activation_backward(context, f, x, dy, dx);
}

void gated_activation_forward(OpContext& context, ActivationFunction f, ConstTensorView gate,
                              ConstTensorView up, TensorView y) {
  constexpr const char* kOp = "gated_activation_forward";
  check_on_cpu(kOp, {gate, up, y});
  check_like(kOp, "up", up, gate);
  check_like(kOp, "y", y, gate);
  cpu::gated_activation_forward(context, f, gate, up, y);
}

void gated_activation_backward(OpContext& context, ActivationFunction f, ConstTensorView gate,
                               ConstTensorView up, ConstTensorView dy, TensorView dgate,
                               TensorView dup) {
  constexpr const char* kOp = "gated_activation_backward";
  check_on_cpu(kOp, {gate, up, dy, dgate, dup});
  check_like(kOp, "up", up, gate);
  check_like(kOp, "dy", dy, gate);
  check_like(kOp, "dgate", dgate, gate);
  check_like(kOp, "dup", dup, gate);
  cpu::gated_activation_backward(context, f, gate, up, dy, dgate, dup);
}

}  // namespace lockstep::models::ops
