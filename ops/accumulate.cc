#include "ops/accumulate.h"

#include "ops/op_bodies.h"
#include "ops/op_checks.h"

namespace lockstep::ops {

void accumulate(OpContext& context, core::ConstTensorView values, bool overwrite,
                core::TensorView sum) {
  constexpr const char* kOp = "accumulate";
  const OpBodies& bodies = bodies_for(context, kOp, {values, sum});
  check_vector(kOp, "values", values, values.dtype(), sum.elements());
  check_vector(kOp, "sum", sum, core::DType::kF32, values.elements());
  bodies.accumulate(context, values, overwrite, sum);
}

}  // namespace lockstep::ops
