#include "models/ops/gradient_stats.h"

#include "models/ops/cpu/bodies.h"
#include "models/ops/op_checks.h"

namespace lockstep::models::ops {

NonFinite count_nonfinite(OpContext& context, core::ConstTensorView x) {
  check_on_cpu("count_nonfinite", {x});
  return cpu::count_nonfinite(context, x);
}

void block_sums_of_squares(OpContext& context, core::ConstTensorView x, double* blocks) {
  check_on_cpu("block_sums_of_squares", {x});
  check_vector("block_sums_of_squares", "x", x, x.dtype(), x.elements());
  cpu::block_sums_of_squares(context, x, blocks);
}

}  // namespace lockstep::models::ops
