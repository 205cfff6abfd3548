#pragma once

#include "ops/cross_entropy.h"
#include "ops/matmul.h"
#include "ops/reduce.h"

// Bodies on the CPU of the ops of the same name and meaning in matmul.h, cross_entropy.h and
// reduce.h. They trust their arguments: the ops check device, shape and dtype before they call.
namespace lockstep::ops::cpu {

void matmul(OpContext& context, core::ConstTensorView a, Transpose transpose_a,
            core::ConstTensorView b, Transpose transpose_b, core::TensorView out,
            core::ConstTensorView bias);

void cross_entropy(OpContext& context, core::ConstTensorView logits,
                   std::span<const std::int32_t> targets, const LossOptions& options,
                   double softcap, core::TensorView dlogits, LossSums* sums);
void softcap_logits(OpContext& context, double softcap, core::TensorView logits);

void column_sum(OpContext& context, core::ConstTensorView x, core::TensorView out);

}  // namespace lockstep::ops::cpu
