#include "models/ops/gradient_stats.h"

#include "models/ops/op_bodies.h"
#include "models/ops/op_checks.h"

namespace lockstep::models::ops {

NonFinite count_nonfinite(OpContext& context, core::ConstTensorView x) {
  const OpBodies& bodies = bodies_for(context, "count_nonfinite", {x});
  return bodies.count_nonfinite(context, x);
}

void block_sums_of_squares(OpContext& context, core::ConstTensorView x, double* blocks) {
  const OpBodies& bodies = bodies_for(context, "block_sums_of_squares", {x});
  check_vector("block_sums_of_squares", "x", x, x.dtype(), x.elements());
  bodies.block_sums_of_squares(context, x, blocks);
}

}  // namespace lockstep::models::ops
