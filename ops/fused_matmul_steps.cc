#include "ops/fused_matmul_steps.h"

#include "ops/op_bodies.h"

namespace lockstep::ops::in_steps {

using core::ConstTensorView;
using core::TensorView;

void matmul_activation_forward(OpContext& context, ActivationFunction f, ConstTensorView x,
                               ConstTensorView weight, ConstTensorView bias, TensorView pre,
                               TensorView y) {
  if (pre.elements() == 0) return;
  const OpBodies& bodies = context.bodies();
  bodies.matmul(context, x, Transpose::kNo, weight, Transpose::kYes, pre, bias);
  bodies.activation_forward(context, f, pre, y);
}

void matmul_activation_backward(OpContext& context, ActivationFunction f, ConstTensorView dy,
                                ConstTensorView weight, ConstTensorView pre, TensorView dpre,
                                TensorView dbias) {
  const OpBodies& bodies = context.bodies();
  if (dpre.elements() > 0) {
    bodies.matmul(context, dy, Transpose::kNo, weight, Transpose::kNo, dpre, {});
    bodies.activation_backward(context, f, pre, dpre, dpre);
  }
  if (!dbias.empty()) bodies.column_sum(context, dpre, dbias);
}

void matmul_weight_gradient(OpContext& context, ConstTensorView dy, ConstTensorView x,
                            TensorView dweight, TensorView dbias) {
  const OpBodies& bodies = context.bodies();
  if (dweight.elements() > 0)
    bodies.matmul(context, dy, Transpose::kYes, x, Transpose::kNo, dweight, {});
  if (!dbias.empty()) bodies.column_sum(context, dy, dbias);
}

}  // namespace lockstep::ops::in_steps
