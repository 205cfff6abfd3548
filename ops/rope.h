#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "ops/op_context.h"
#include "ops/rope_scaling.h"

namespace lockstep::ops {

// Rotary position table: cosines and sines [T, D/2] each in the accumulate dtype, angle = t *
// theta^(-2i/D), its frequency scaled (computed in double, rounded once).
void fill_rope_table(OpContext& context, double theta, const RopeScaling& scaling,
                     core::TensorView cosines, core::TensorView sines);

enum class RopeDirection { kForward, kBackward };

// Rotates, in place, every head of x [B*T, heads*D]; rotate-half form as in Hugging Face's Llama:
// the pair of element i is i + D/2. Backward rotates the gradient by the negative angle.
void rope(OpContext& context, RopeDirection direction, std::int64_t length, std::int64_t head_width,
          core::ConstTensorView cosines, core::ConstTensorView sines, core::TensorView x);

}  // namespace lockstep::ops
