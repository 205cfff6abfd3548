#include "ops/rope.h"

#include "core/check.h"
#include "ops/op_bodies.h"
#include "ops/op_checks.h"

namespace lockstep::ops {

void fill_rope_table(OpContext& context, double theta, const RopeScaling& scaling,
                     core::TensorView cosines, core::TensorView sines) {
  constexpr const char* kOp = "fill_rope_table";
  LOCKSTEP_CHECK(cosines.dtype() == core::DType::kF32 || cosines.dtype() == core::DType::kF64,
                 "{}: tables are fp32 or fp64, found {}", kOp, core::name_of(cosines.dtype()));
  LOCKSTEP_CHECK(theta > 0.0, "{}: theta is {}", kOp, theta);
  const OpBodies& bodies = bodies_for(context, kOp, {cosines, sines});
  check_matrix(kOp, "sines", sines, cosines.dtype(), cosines.rows(), cosines.cols());
  bodies.fill_rope_table(context, theta, scaling, cosines, sines);
}

void rope(OpContext& context, RopeDirection direction, std::int64_t length, std::int64_t head_width,
          core::ConstTensorView cosines, core::ConstTensorView sines, core::TensorView x) {
  constexpr const char* kOp = "rope";
  const core::DType table = core::accumulate_dtype(x.dtype());
  LOCKSTEP_CHECK(head_width > 0 && head_width % 2 == 0 && x.cols() % head_width == 0,
                 "{}: rows of {} elements do not hold heads of even width {}", kOp, x.cols(),
                 head_width);
  LOCKSTEP_CHECK(length > 0 && x.rows() % length == 0,
                 "{}: {} rows do not make whole sequences of {}", kOp, x.rows(), length);
  LOCKSTEP_CHECK_LE(length, cosines.rows(), "rope: sequence length and rows of the table");
  const OpBodies& bodies = bodies_for(context, kOp, {cosines, sines, x});
  check_matrix(kOp, "cosines", cosines, table, cosines.rows(), head_width / 2);
  check_matrix(kOp, "sines", sines, table, cosines.rows(), head_width / 2);
  bodies.rope(context, direction, length, head_width, cosines, sines, x);
}

}  // namespace lockstep::ops
