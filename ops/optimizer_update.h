#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/memory.h"
#include "core/tensor.h"
#include "ops/op_context.h"
#include "ops/plan_table.h"

namespace lockstep::ops {

// kMuon: only what follows its iterations (muon.h), whose result takes the gradient's place.
enum class OptimizerKind { kAdamW, kAdam, kSgd, kRmsProp, kLion, kMuon };

// The numbers of one update, the same for every element. `t` is the 1-based count of applied steps.
struct UpdateRule {
  OptimizerKind kind = OptimizerKind::kAdamW;
  double learning_rate = 0.0;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  // adamw, lion, muon: decoupled; adam, sgd, rmsprop: added to the gradient (L2), as in PyTorch
  double weight_decay = 0.0;
  double momentum = 0.0;  // sgd, rmsprop
  double alpha = 0.99;    // rmsprop
  std::int64_t t = 1;

  bool operator==(const UpdateRule&) const = default;
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

// One of the runs of elements of a batched update; views as above.
struct UpdateRun {
  core::ConstTensorView gradient;
  core::TensorView master;
  core::TensorView state0;
  core::TensorView state1;
  core::TensorView parameter;
  bool decay = false;
  std::int32_t factor = 0;  // which of the factors, where there are several
};

// A run as a kernel takes it: pointers into the memory of the device, null where there is no view.
struct UpdateSpan {
  const float* gradient;
  float* master;
  float* state0;
  float* state1;
  void* parameter;
  std::int64_t count;
  std::int32_t factor;
  bool decay;
  bool aligned;  // each of the views begins on 16 bytes
};

inline UpdateSpan span_of(const UpdateRun& run) {
  const void* const pointers[] = {run.gradient.raw(), run.master.raw(), run.state0.raw(),
                                  run.state1.raw(), run.parameter.raw()};
  bool aligned = true;
  for (const void* p : pointers)
    aligned = aligned && reinterpret_cast<std::uintptr_t>(p) % 16 == 0;
  return {static_cast<const float*>(run.gradient.raw()),
          static_cast<float*>(run.master.raw()),
          static_cast<float*>(run.state0.raw()),
          static_cast<float*>(run.state1.raw()),
          run.parameter.raw(),
          run.gradient.elements(),
          run.factor,
          run.decay,
          aligned};
}

// Elements [tile * kElements, (tile + 1) * kElements) of a run, as far as there are: a block of
// threads on a device.
struct UpdateTile {
  static constexpr std::int64_t kElements = 2048;

  std::int32_t run;
  std::int32_t tile;
};

// Which runs are updated, checked and cut into work once, so that the calls neither allocate nor
// upload. The views must stay where they are. Either all runs have a parameter, of one dtype, or
// none; all have the same number of states.
class UpdatePlan {
 public:
  UpdatePlan(const OpContext& context, core::MemoryTracker& memory, std::vector<UpdateRun> runs);

  core::Device device() const { return device_; }
  const std::vector<UpdateRun>& runs() const { return runs_; }
  int states() const { return states_; }
  core::DType parameter() const { return parameter_; }  // fp32 without parameters
  std::int32_t factors() const { return factors_; }     // one more than the greatest factor
  const PlanTable<UpdateSpan>& spans() const { return spans_; }  // devices only, as the tiles
  const PlanTable<UpdateTile>& tiles() const { return tiles_; }

 private:
  core::Device device_;
  std::vector<UpdateRun> runs_;
  int states_ = 0;
  core::DType parameter_ = core::DType::kF32;
  std::int32_t factors_ = 0;
  PlanTable<UpdateSpan> spans_;
  PlanTable<UpdateTile> tiles_;
};

// One factor for all runs, or an array from which each run takes its own.
struct RunFactors {
  UpdateFactor common = 1.0F;
  std::span<const float> by_run;  // not empty: [UpdateRun::factor] counts and `common` does not; in
                                  // the memory of the context's device

  RunFactors(float factor) : common(factor) {}  // implicit, as UpdateFactor
  RunFactors(UpdateFactor factor) : common(factor) {}
  explicit RunFactors(std::span<const float> factors) : by_run(factors) {}
};

// optimizer_update() of every run of the plan, with the same bits; no two runs may share an
// element. On a device one launch.
void optimizer_update_runs(OpContext& context, const UpdateRule& rule, const UpdatePlan& plan,
                           const RunFactors& factors, float clamp);

// Whether an update goes ahead, by which of several rules and with which factor, where that is
// decided on the device: in its memory, read when the update runs.
struct UpdateChoice {
  std::int32_t apply = 0;  // 0: nothing is changed
  std::int32_t rule = 0;   // index in the rules given
  float factor = 1.0F;     // for all runs, unless there are factors by run
};
inline constexpr std::size_t kMostRules = 2;

// The same where the device decides, with the same bits. rules: 1 to kMostRules, equal but for
// learning_rate and t. choice: in the memory of the context's device; never on the CPU, where who
// decides calls or does not. by_run: as RunFactors::by_run, may be empty.
void optimizer_update_runs(OpContext& context, std::span<const UpdateRule> rules,
                           const UpdatePlan& plan, const UpdateChoice* choice,
                           std::span<const float> by_run, float clamp);

}  // namespace lockstep::ops
