#pragma once

#include <string>

#include "models/model_config.h"
#include "models/parameter_table.h"
#include "runtime/checkpoint/safetensors_writer.h"
#include "runtime/sharding/model_state.h"

namespace lockstep::runtime {

// model.safetensors: the fp32 master weights under Hugging Face's names and in its layouts
// (models/huggingface_names.h).

// Collective: weights are gathered a bucket at a time; only rank 0 (`path` not empty) writes.
WrittenFile write_model_file(const std::string& path, const models::ModelConfig& config,
                             const models::ParameterTable& table, StateCollector& collector);

// Sets every parameter from a file of this model. Throws Error(kData) with a list of what is
// missing, unknown or of another shape.
void read_model_file(const std::string& path, const models::ModelConfig& config,
                     const models::ParameterTable& table, ModelState& model);

}  // namespace lockstep::runtime
