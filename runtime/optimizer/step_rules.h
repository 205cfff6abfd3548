#pragma once

#include <cstdint>

#include "ops/optimizer_update.h"
#include "runtime/config/config.h"

namespace lockstep::runtime {

// The numbers of the update of one applied step. Both follow the schedule, each from its own peak.
struct StepRules {
  ops::UpdateRule tensors;   // of everything but Muon's matrices
  ops::UpdateRule matrices;  // of those
};

// applied_step: 1-based. optimizer_since: CheckpointState::optimizer_since.
StepRules step_rules(const Config& config, std::int64_t applied_step, std::int64_t optimizer_since);

}  // namespace lockstep::runtime
