#pragma once

#include "core/log.h"
#include "models/parameter_table.h"
#include "runtime/config/config.h"
#include "runtime/sharding/model_state.h"

namespace lockstep::runtime {

// Sets every parameter from model.init_from. Where a config.json lies beside the weights, the model
// it describes must be the configured one: Error(kConfig) listing what differs, or what of it
// cannot be expressed. Otherwise what names and shapes do not show is taken as configured, and a
// line says so. Tells from which files the weights come, which tensors were left, cut, padded or
// made anew.
// Error(kData) for files that are unreadable, do not fit, or hold values that are not finite.
void load_initial_weights(const Config& config, const models::ParameterTable& table,
                          ModelState& model, core::Logger& log);

}  // namespace lockstep::runtime
