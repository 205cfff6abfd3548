#include "ops/reduce.h"

#include "ops/op_bodies.h"
#include "ops/op_checks.h"

namespace lockstep::ops {

void column_sum(OpContext& context, core::ConstTensorView x, core::TensorView out) {
  constexpr const char* kOp = "column_sum";
  if (!core::is_floating(x.dtype())) core::fail_not_floating(x.dtype());
  const OpBodies& bodies = bodies_for(context, kOp, {x, out});
  check_matrix(kOp, "x", x, x.dtype(), x.rows(), x.cols());
  check_vector(kOp, "out", out, x.dtype(), x.cols());
  bodies.column_sum(context, x, out);
}

}  // namespace lockstep::ops
