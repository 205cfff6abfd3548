#pragma once

#include "core/tensor.h"
#include "ops/attention.h"
#include "ops/op_context.h"

namespace lockstep::ops {

// Attention of the last positions of one sequence over all of them, forward, without dropout: with
// P positions, spec.length of them new, query i sees keys [0, P - spec.length + i], of these the last
// spec.window where that is not 0. Softmax with the row maximum subtracted, sums in order of key, in the accumulate dtype. q, out: [length, H*D]; k,
// v: [P, K*D]; rows may be strided. On the CPU.
void cached_attention(OpContext& context, const AttentionSpec& spec, core::ConstTensorView q,
                      core::ConstTensorView k, core::ConstTensorView v, core::TensorView out);

}  // namespace lockstep::ops
