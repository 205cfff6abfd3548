#pragma once

#include <cstddef>

#include "core/memory.h"
#include "core/pinned_buffer.h"
#include "models/model_io.h"
#include "models/parameter_table.h"
#include "runtime/sharding/bucket_layout.h"
#include "runtime/sharding/model_state.h"
#include "runtime/step/device_decision.h"

namespace lockstep::runtime {

// All parameters of the last step that was not applied, in pinned memory of the host: for a bundle
// that is written when a device may have changed its parameters already. The device writes them by
// itself, in its own order of work, and only then.
class KeptParameters : public models::ParameterSource {
 public:
  static constexpr const char* kRegion = "replay";  // of the memory tracker

  KeptParameters(const models::ParameterTable& table, const BucketLayout& layout, ModelState& state,
                 core::MemoryTracker& memory);
  ~KeptParameters() override;
  KeptParameters(const KeptParameters&) = delete;
  KeptParameters& operator=(const KeptParameters&) = delete;

  // Put on the stream between a decision and its update.
  void keep_unless_applied(const DecisionBodies& bodies, const DeviceDecision& decision);

  // On the host. There once the work of that step is done.
  core::ConstTensorView parameter(models::ParameterId id) override;

 private:
  const models::ParameterTable& table_;
  const BucketLayout& layout_;
  ModelState& state_;
  core::MemoryTracker& memory_;
  core::PinnedBuffer values_;
};

}  // namespace lockstep::runtime
