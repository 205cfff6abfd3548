#pragma once

#include <cstdint>
#include <vector>

#include "core/memory.h"
#include "ops/op_context.h"
#include "ops/optimizer_update.h"
#include "runtime/sharding/gradient_buckets.h"
#include "runtime/sharding/model_state.h"

namespace lockstep::runtime {

// Updates on the CPU that leave behind what they changed: of every element master after - master
// before, rounded to fp32, in the memory of its aggregated gradient
// (GradientBuckets::free_between_steps()), so that it costs no memory of the size of the model.
class UpdateChanges {
 public:
  static constexpr const char* kRegion = "layers";

  UpdateChanges(ModelState& state, const GradientBuckets& gradients, core::MemoryTracker& memory);

  // ops::optimizer_update() of `run`, with the same bits.
  void update(ops::OpContext& context, const ops::UpdateRule& rule, const ops::UpdateRun& run,
              ops::UpdateFactor factor, float clamp);

  static constexpr std::size_t bytes() { return kChunk * sizeof(float); }

 private:
  static constexpr std::int64_t kChunk = 1 << 16;

  // Masters of one owned run and where their changes go.
  struct Place {
    const float* master;
    float* change;
    std::int64_t count;
  };
  float* change_of(const float* master) const;

  core::Buffer before_;        // fp32 [kChunk]
  std::vector<Place> places_;  // masters ascending
};

}  // namespace lockstep::runtime
