#pragma once

#include "runtime/interchange/foreign_fields.h"

// Fields of a config.json that are read together: rotary positions and attention windows.
namespace lockstep::runtime {

// rope_scaling, rope_parameters and rope_theta, with the precedence that Transformers 5 gives them:
// rope_scaling unless it is empty, else rope_parameters; theta within, beside, or 10000. Types
// default, linear and llama3 can be expressed.
void read_rope(FieldReader& reader, const ForeignField& field);

// Mistral: sliding_window holds for every layer.
void read_window_of_all_layers(FieldReader& reader, const ForeignField& field);

// Qwen2 and Qwen3: layer_types, or use_sliding_window with the layers from max_window_layers on.
void read_window_by_layer(FieldReader& reader, const ForeignField& field);

}  // namespace lockstep::runtime
