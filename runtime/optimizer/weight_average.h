#pragma once

#include <cstdint>
#include <string>

#include "core/memory.h"
#include "ops/op_context.h"
#include "ops/optimizer_update.h"
#include "runtime/config/config.h"
#include "runtime/sharding/gradient_buckets.h"
#include "runtime/sharding/model_state.h"

namespace lockstep::runtime {

// The exponential moving average of the fp32 master weights (ema), sharded as they are, updated by
// applied steps alone. The values lie in ModelState; without ema.decay nothing is done. Formula in
// docs/numerics.md, "Averaged weights".
class WeightAverage {
 public:
  WeightAverage(const EmaConfig& config, ModelState& state, ops::OpContext& context,
                core::MemoryTracker& memory);

  bool active() const { return config_.decay > 0.0; }

  // After applied step t (from 1) has changed the masters.
  void update(std::int64_t t);
  // The same where a device decides whether the step is applied, and whether it is number
  // first_applied + 1 or + 2 (UpdateChoice::rule 0 or 1).
  void update_decided(std::int64_t first_applied, const ops::UpdateChoice* choice);

  // Makes the model compute with the averages, on all ranks, and with the weights again, whose bits
  // are what they were. In between no step may be under way: fp32 weights wait in the memory of
  // `gradients`. Collective.
  void show(GradientBuckets& gradients);
  void hide(GradientBuckets& gradients);

  // What is added to the average at applied step t: 1 - decay; 0 where no update is due.
  static double weight_at(const EmaConfig& config, std::int64_t t);
  // "decay 0.999 every applied step, with warm-up", and a warning when the average will still hold
  // more than 1 % of the initial weights after `steps`.
  static std::string describe(const EmaConfig& config);
  static std::string warning(const EmaConfig& config, std::int64_t steps);  // or empty

 private:
  // Where a run lies in memory of the elements of its bucket that this rank updates.
  core::TensorView place_of(const OwnedRun& run, int bucket, core::TensorView owned) const;

  EmaConfig config_;
  ModelState& state_;
  ops::OpContext& context_;
  ops::UpdatePlan plan_;
  core::Buffer factor_;  // of a device: fp32 [1]
};

}  // namespace lockstep::runtime
