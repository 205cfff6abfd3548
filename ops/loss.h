#pragma once

#include <cstdint>

// What a loss is told and what it gives, in every loss of the house.
namespace lockstep::ops {

// A target that counts for nothing: no loss, no gradient.
inline constexpr std::int32_t kIgnored = -1;

struct LossOptions {
  double label_smoothing = 0.0;
  double z_loss = 0.0;
  // 0: `optimised` is a sum over targets. Else it is a sum over sequences, each so many rows, of
  // the mean over the counted targets of each: a row of a sequence with n of them counts 1/n.
  std::int64_t sequence_rows = 0;
  // What `optimised` is back-propagated with: loss_scale / D.
  float gradient_weight = 1.0F;
  // Not null: it counts and gradient_weight does not; in the memory of the logits' device, read
  // when the loss is computed, never on the CPU.
  const float* weight_on_device = nullptr;
};

// Sums over the counted (not ignored) targets of the micro-batch, in fp64, added in row order.
struct LossSums {
  double optimised = 0.0;      // with smoothing and z-loss: what is differentiated, weighted by row
  double cross_entropy = 0.0;  // plain
  std::int64_t counted = 0;
  // The first place of the model whose result holds an inf or NaN, in the model's own numbering;
  // set by the model, of a training forward, and only when `optimised` is not finite.
  std::int64_t nonfinite_layer = 0;
  // What `optimised` has terms of: counted targets, or the sequences that have any.
  std::int64_t terms = 0;
};

}  // namespace lockstep::ops
