#pragma once

#include "ops/attention.h"
#include "ops/dropout.h"
#include "ops/rope.h"

// Bodies on the CPU of the ops of the same name and meaning in attention.h, dropout.h and rope.h.
// They trust their arguments: the ops check device, shape and dtype before they call.
namespace lockstep::ops::cpu {

void attention_forward(OpContext& context, const AttentionSpec& spec, core::ConstTensorView q,
                       core::ConstTensorView k, core::ConstTensorView v, core::TensorView out,
                       core::TensorView lse);
void attention_backward(OpContext& context, const AttentionSpec& spec, core::ConstTensorView dout,
                        core::ConstTensorView q, core::ConstTensorView k, core::ConstTensorView v,
                        core::ConstTensorView out, core::ConstTensorView lse, core::TensorView dq,
                        core::TensorView dk, core::TensorView dv);

void dropout(OpContext& context, core::ConstTensorView x, const Dropout& dropout,
             core::TensorView y);

void fill_rope_table(OpContext& context, double theta, const RopeScaling& scaling,
                     core::TensorView cosines, core::TensorView sines);
void rope(OpContext& context, RopeDirection direction, std::int64_t length, std::int64_t head_width,
          core::ConstTensorView cosines, core::ConstTensorView sines, core::TensorView x);

}  // namespace lockstep::ops::cpu
