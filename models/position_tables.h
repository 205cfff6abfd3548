#pragma once

#include "models/activations.h"
#include "models/model_config.h"
#include "ops/op_context.h"

namespace lockstep::models {

// Fills the plan's constants of position: rotary angles or sinusoids, where the model has them.
void fill_position_tables(ops::OpContext& context, const ModelConfig& config,
                          const Activations& activations);

}  // namespace lockstep::models
