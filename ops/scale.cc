#include "ops/scale.h"

#include "ops/op_bodies.h"
#include "ops/op_checks.h"

namespace lockstep::ops {

void scale(OpContext& context, double factor, core::TensorView x) {
  constexpr const char* kOp = "scale";
  const OpBodies& bodies = bodies_for(context, kOp, {x});
  check_vector(kOp, "x", x, x.dtype(), x.elements());
  bodies.scale(context, factor, x);
}

}  // namespace lockstep::ops
