#pragma once

#include "models/model_config.h"
#include "models/parameter_table.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/huggingface_weights.h"

namespace lockstep::runtime {

// Which weights of a checkpoint: those that are trained, or their moving average (ema).
enum class WeightsChoice { kModel, kEma };

// Hands every parameter of the checkpoint's model to `sink` once, in canonical order: fp32, in
// canonical shape. Of the average, frozen tensors are the weights
// themselves. The files are not verified (verify_checkpoint). Throws Error(kConfig) when averages
// are asked for and the checkpoint has none, Error(kData) when it cannot be read.
void load_weights(const CheckpointManifest& manifest, const models::ParameterTable& table,
                  const models::ModelConfig& config, WeightsChoice choice,
                  const ParameterSink& sink);

}  // namespace lockstep::runtime
