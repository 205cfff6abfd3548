#pragma once

#include <cstdint>
#include <span>

#include "core/tensor.h"
#include "ops/loss.h"
#include "ops/op_context.h"

namespace lockstep::ops {

// Fused softmax cross-entropy on logits [N, V] in the accumulate dtype (fp32, fp64 for fp64).
//   z         = logits, or softcap * tanh(logits / softcap) when softcap > 0
//   lse       = log(sum(exp(z - max))) + max
//   plain     = lse - z[target]
//   optimised = (1-e) * plain + e/V * sum_j(lse - z[j]) + z_loss * lse^2
// with e the label smoothing, as in PyTorch.
// targets: [N], kIgnored rows count nothing and get a zero gradient. A target outside [0, V) is
// Error(kData). dlogits: empty, or [N, V] in the compute dtype, set to gradient_weight *
// d(optimised)/d(logits) (through the softcap). With options.sequence_rows the rows are weighted.
// It may share memory with logits when both rows begin at the same address (in place; a 16-bit row
// lies in the first half of its row). Row losses are in fp64 and added in row order, on a device in
// a fixed tree. *sums lies where logits lie (see Results), and is there when the work of the
// context is done.
void cross_entropy(OpContext& context, core::ConstTensorView logits,
                   std::span<const std::int32_t> targets, const LossOptions& options,
                   double softcap, core::TensorView dlogits, LossSums* sums);

// In place: logits = softcap * tanh(logits / softcap).
void softcap_logits(OpContext& context, double softcap, core::TensorView logits);

}  // namespace lockstep::ops
