#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "models/ops/op_context.h"

namespace lockstep::models::ops {

enum class OptimizerKind { kAdamW, kAdam, kSgd, kRmsProp, kLion };

// The numbers of one update, the same for every element. `t` is the 1-based count of applied steps.
struct UpdateRule {
  OptimizerKind kind = OptimizerKind::kAdamW;
  double learning_rate = 0.0;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay =
      0.0;  // adamw, lion: decoupled; adam, sgd, rmsprop: added to the gradient (L2), as in PyTorch
  double momentum = 0.0;  // sgd, rmsprop
  double alpha = 0.99;    // rmsprop
  std::int64_t t = 1;
};

int state_tensors(OptimizerKind kind,
                  double momentum);  // fp32 tensors of state per element: 0, 1 or 2

// What every gradient is multiplied with. On a device the number may still be under way: then it is
// one fp32 in the memory of that device, read when the update runs.
struct UpdateFactor {
  float value = 1.0F;
  const float* on_device = nullptr;  // not null: it counts and `value` does not; never on the CPU

  UpdateFactor(float factor) : value(factor) {}  // implicit: most callers have a number
  explicit UpdateFactor(const float* device_memory) : on_device(device_memory) {}
};

// One pass over n consecutive elements of a shard:
//   g = gradient[i] * factor, clamped to +-clamp when clamp > 0; then the rule, on the fp32 master;
//   then the cast.
// gradient, master, state0, state1: fp32 [n] (states empty when the rule has fewer); parameter: [n]
// in the compute dtype, or empty when the master is the parameter itself (fp32). decay: whether
// weight_decay applies to these elements.
void optimizer_update(OpContext& context, const UpdateRule& rule, bool decay, UpdateFactor factor,
                      float clamp, core::ConstTensorView gradient, core::TensorView master,
                      core::TensorView state0, core::TensorView state1, core::TensorView parameter);

}  // namespace lockstep::models::ops
