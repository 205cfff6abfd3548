#pragma once

#include <string>

#include "models/parameter_table.h"
#include "runtime/checkpoint/safetensors_writer.h"
#include "runtime/sharding/model_state.h"

namespace lockstep::runtime {

// optimizer.safetensors: fp32 tensors "state0.<canonical parameter name>" and "state1.<...>"
// (AdamW: first and second moment), in canonical layout, every parameter of one state after the
// other.

// Collective: the states are gathered a bucket at a time; only rank 0 (`path` not empty) writes.
WrittenFile write_optimizer_file(const std::string& path, const models::ParameterTable& table,
                                 ModelState& model, StateCollector& collector);

// Throws Error(kData) naming the tensor that is missing or of another shape.
void read_optimizer_file(const std::string& path, const models::ParameterTable& table,
                         ModelState& model);

}  // namespace lockstep::runtime
