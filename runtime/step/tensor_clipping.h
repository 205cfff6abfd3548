#pragma once

#include <string>
#include <vector>

#include "runtime/config/config.h"
#include "runtime/step/step_decision.h"

namespace lockstep::runtime {

// The clip coefficient of every tensor of an applied step, under a mode that clips by tensor
// (clips_by_tensor()); clip_tensor() for each. norms: by ParameterId, of the mean gradient, the
// same on every rank. Moves decision.next.clip_references on.
std::vector<double> clip_tensors(const ClipConfig& rules, const std::vector<double>& norms,
                                 StepDecision& decision);

// The state of an adaptive mode as a ledger records it, a JSON object; empty for other modes.
std::string clip_state_text(const DecisionState& state);

}  // namespace lockstep::runtime
