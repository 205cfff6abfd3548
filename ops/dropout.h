#pragma once

#include <cstdint>

#include "core/random.h"
#include "core/tensor.h"
#include "ops/op_context.h"

namespace lockstep::ops {

// Where and how dropout happens. The decision for an element is a pure function of (key, global
// sequence index, index of the element within its sequence), so it does not depend on rank,
// micro-batch or thread: element e of sequence s is kept when unit(philox(key, counter = (e / 4,
// s))[e % 4]) >= probability. Kept values are divided by (1 - probability).
struct Dropout {
  double probability = 0.0;         // 0: off
  core::Philox4x32Key key{};        // of purpose (site and layer) and step
  std::int64_t first_sequence = 0;  // global index of the first sequence of the micro-batch
  std::int64_t sequence_rows = 1;   // rows of a sequence (T) in a [B*T, C] tensor

  bool active() const { return probability > 0.0; }
};

// Factors (0 or 1/(1-p)) of elements [begin, begin + n) of one sequence, into out. sequence is the
// global index, first_sequence + b for sequence b of the micro-batch.
void dropout_factors(const Dropout& dropout, std::int64_t sequence, std::int64_t begin,
                     std::int64_t n, float* out);

// y = x * factor; backward is the same call on the gradient. y may be x. Copies when inactive.
void dropout(OpContext& context, core::ConstTensorView x, const Dropout& dropout,
             core::TensorView y);

}  // namespace lockstep::ops
