#pragma once

#include <string_view>
#include <vector>

#include "runtime/config/config.h"

namespace lockstep::runtime {

// What each fp32 state of an element holds, state 0 first: as many as ops::state_tensors() says. The
// same name is the same quantity, so that one optimizer can take over what another has gathered;
// nothing else can be.
std::vector<std::string_view> state_names(const OptimizerConfig& optimizer);

}  // namespace lockstep::runtime
