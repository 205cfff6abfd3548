#include "models/ops/optimizer_update.h"

#include "models/ops/op_bodies.h"
#include "models/ops/op_checks.h"

namespace lockstep::models::ops {

using core::ConstTensorView;
using core::DType;
using core::TensorView;

int state_tensors(OptimizerKind kind, double momentum) {
  switch (kind) {
    case OptimizerKind::kAdamW:
    case OptimizerKind::kAdam:
      return 2;
    case OptimizerKind::kSgd:
      return momentum > 0.0 ? 1 : 0;
    case OptimizerKind::kRmsProp:
      return momentum > 0.0 ? 2 : 1;
    case OptimizerKind::kLion:
      return 1;
  }
  return 0;
}

void optimizer_update(OpContext& context, const UpdateRule& rule, bool decay, UpdateFactor factor,
                      float clamp, ConstTensorView gradient, TensorView master, TensorView state0,
                      TensorView state1, TensorView parameter) {
  constexpr const char* kOp = "optimizer_update";
  const std::int64_t n = gradient.elements();
  const int states = state_tensors(rule.kind, rule.momentum);
  LOCKSTEP_CHECK(rule.t >= 1, "{}: t counts applied steps from 1, found {}", kOp, rule.t);
  const OpBodies& bodies = bodies_for(context, kOp, {gradient, master, state0, state1, parameter});
  LOCKSTEP_CHECK(factor.on_device == nullptr || context.device().type != core::DeviceType::kCpu,
                 "{}: a factor in device memory for an update on the CPU", kOp);
  check_vector(kOp, "gradient", gradient, DType::kF32, n);
  check_vector(kOp, "master", master, DType::kF32, n);
  if (states > 0) check_vector(kOp, "state0", state0, DType::kF32, n);
  if (states > 1) check_vector(kOp, "state1", state1, DType::kF32, n);
  check_vector_or_empty(kOp, "parameter", parameter, parameter.dtype(), n);
  bodies.optimizer_update(context, rule, decay, factor, clamp, gradient, master, state0, state1,
                          parameter);
}

}  // namespace lockstep::models::ops
