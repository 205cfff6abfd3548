#include "ops/activation.h"

#include "ops/op_bodies.h"
#include "ops/op_checks.h"

namespace lockstep::ops {

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
  const OpBodies& bodies = bodies_for(context, kOp, {x, y});
  check_like(kOp, "y", y, x);
  bodies.activation_forward(context, f, x, y);
}

void activation_backward(OpContext& context, ActivationFunction f, ConstTensorView x,
                         ConstTensorView dy, TensorView dx) {
  constexpr const char* kOp = "activation_backward";
  const OpBodies& bodies = bodies_for(context, kOp, {x, dy, dx});
  check_like(kOp, "dy", dy, x);
  check_like(kOp, "dx", dx, x);
  bodies.activation_backward(context, f, x, dy, dx);
}

void gated_activation_forward(OpContext& context, ActivationFunction f, ConstTensorView gate,
                              ConstTensorView up, TensorView y) {
  constexpr const char* kOp = "gated_activation_forward";
  const OpBodies& bodies = bodies_for(context, kOp, {gate, up, y});
  check_like(kOp, "up", up, gate);
  check_like(kOp, "y", y, gate);
  bodies.gated_activation_forward(context, f, gate, up, y);
}

void gated_activation_backward(OpContext& context, ActivationFunction f, ConstTensorView gate,
                               ConstTensorView up, ConstTensorView dy, TensorView dgate,
                               TensorView dup) {
  constexpr const char* kOp = "gated_activation_backward";
  const OpBodies& bodies = bodies_for(context, kOp, {gate, up, dy, dgate, dup});
  check_like(kOp, "up", up, gate);
  check_like(kOp, "dy", dy, gate);
  check_like(kOp, "dgate", dgate, gate);
  check_like(kOp, "dup", dup, gate);
  bodies.gated_activation_backward(context, f, gate, up, dy, dgate, dup);
}

}  // namespace lockstep::ops
