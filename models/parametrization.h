#pragma once

#include "models/model_config.h"
#include "models/parameter_table.h"

namespace lockstep::models {

// muP: a model of any width takes the learning rates of its base model (mup_base_width, the same
// heads, everything else the same). Of width multiplier m = fan-in / fan-in of the base model, by
// tensor:
//
//   tensor                      initial standard deviation   Adam's learning rate   weight decay
//   matrices of the blocks      base / sqrt(m)               / m                    * m
//   embeddings, tied head       base                         as it is               as it is
//   untied head                 base                         as it is               as it is
//   norms, biases, gates        as they are                  as it is               none
//
// and in the forward pass: scores are scaled by sqrt(d0) / d (d0: the base model's head width,
// which is 1 / sqrt(d) there), logits by 1 / m. Decoupled decay takes lr * wd, so wd * m keeps it
// as it is. At m = 1 everything is `standard`, bit for bit. After Yang et al. 2022 (arXiv
// 2203.03466), table 8.

// The model at its base width, with parametrization standard.
ModelConfig base_model(const ModelConfig& config);

// Scale of attention scores.
double attention_scale(const ModelConfig& config);

// Fan-in of a matrix of a block over that of the base model; 1 for every other tensor.
double fan_in_multiplier(const ModelConfig& config, const ParameterTable& base,
                         const ParameterSpec& spec);

}  // namespace lockstep::models
