#pragma once

#include <cstddef>
#include <cstdint>

#include "core/cuda_module.h"
#include "core/tensor.h"
#include "models/model_io.h"
#include "ops/gradient_stats.h"
#include "ops/op_context.h"
#include "ops/optimizer_update.h"
#include "runtime/step/numeric_decision.h"

namespace lockstep::runtime {

// What the ops of a step left in the memory of the device: of this rank's shard of the aggregated
// gradient, of its rounds, and of its own gradient before any reduction.
struct StepMeasurements {
  const ops::SumOfSquares* shard = nullptr;
  std::int64_t shard_sums = 0;
  const ops::LossSums* losses = nullptr;
  std::int64_t rounds = 0;
  const ops::NonFinite* own = nullptr;
  std::int64_t own_counts = 0;
};

// What a device decided of a step.
struct DecidedStep {
  NumericDecision numbers;   // coefficient: where tensors have their own, the smallest
  ops::UpdateChoice choice;  // rule: applied steps before, counted from `first_applied`
};

// Where a decision lies in the memory of the device.
struct DecisionMemory {
  NumericState* state = nullptr;  // before it; afterwards of the next step
  DecidedStep* decided = nullptr;
  float* gradient_weight = nullptr;  // of the next step: its loss scale / D
};

// The kernels of the step decision, on the stream of a context of a device. Pointers are into its
// memory unless said otherwise.
struct DecisionBodies {
  // Adds up what this rank has measured.
  void (*add_up_step)(ops::OpContext& context, const StepMeasurements& measured,
                      StepNumbers* numbers);
  // decide_numbers() from the numbers of all ranks, in rank order. first_applied: the number of
  // applied steps for which the first rule of the update is meant.
  void (*decide)(ops::OpContext& context, const DecisionRules& rules, const StepNumbers* numbers,
                 int ranks, std::int64_t first_applied, const DecisionMemory& memory);
  // sums[p] = what this rank's shard has of parameter p; parameter_of[i]: which one shard[i] is of.
  void (*add_up_parameters)(ops::OpContext& context, const ops::SumOfSquares* shard,
                            const std::int32_t* parameter_of, std::int64_t shard_sums,
                            std::int64_t parameters, ops::ExactSum* sums);
  // Modes that clip by tensor, from the sums of all ranks [ranks, parameters]: factors[p] = clip
  // coefficient of parameter p * numbers.unscale. The smallest coefficient becomes
  // numbers.coefficient. references: [parameters], moved on (clip_tensor()); null where the mode
  // has none. A step that is not applied changes nothing.
  void (*clip_parameters)(ops::OpContext& context, const ClipConfig& rules,
                          const ops::ExactSum* sums, int ranks, std::int64_t parameters,
                          DecidedStep* decided, double* references, float* factors);
  // Copies `bytes` bytes of the device to pinned memory of the host unless the update goes ahead.
  void (*keep_unless_applied)(ops::OpContext& context, const DecidedStep* decided,
                              const void* memory, void* pinned, std::size_t bytes);
};

// The CUDA module's. Throws Error(kConfig) saying why there are none.
const DecisionBodies& cuda_decision_bodies(const core::CudaModule& module);

}  // namespace lockstep::runtime
