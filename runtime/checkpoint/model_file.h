#pragma once

#include <atomic>
#include <string>

#include "models/model_config.h"
#include "models/parameter_table.h"
#include "runtime/checkpoint/safetensors_writer.h"
#include "runtime/checkpoint/snapshot.h"

namespace lockstep::runtime {

// model.safetensors: the fp32 master weights under Hugging Face's names and in its layouts
// (models/huggingface_names.h).

// Rank 0's snapshot, written and synced; Error(kStopped) soon after `abandoned` becomes true.
WrittenFile write_model_file(const std::string& path, const models::ModelConfig& config,
                             const models::ParameterTable& table, const Snapshot& snapshot,
                             const std::atomic<bool>& abandoned);

// Sets every parameter from a file of this model. Throws Error(kData) with a list of what is
// missing, unknown or of another shape.
void read_model_file(const std::string& path, const models::ModelConfig& config,
                     const models::ParameterTable& table, ModelState& model);

}  // namespace lockstep::runtime
