#include "ops/rms_norm.h"

#include "ops/op_bodies.h"
#include "ops/op_checks.h"

namespace lockstep::ops {

using core::ConstTensorView;
using core::DType;
using core::TensorView;

namespace {

// The width of one head; heads must divide the row.
std::int64_t head_width(const char* op, const ConstTensorView& x, std::int64_t heads) {
  LOCKSTEP_CHECK(heads > 0 && x.cols() % heads == 0, "{}: {} heads do not divide rows of {}", op,
                 heads, x.cols());
  return x.cols() / heads;
}

}  // namespace

void rms_norm_forward(OpContext& context, ConstTensorView x, ConstTensorView gain, double eps,
                      std::int64_t heads, TensorView y, TensorView rstd) {
  constexpr const char* kOp = "rms_norm_forward";
  const std::int64_t width = head_width(kOp, x, heads);
  const DType dtype = x.dtype();
  const OpBodies& bodies = bodies_for(context, kOp, {x, gain, y, rstd});
  check_matrix(kOp, "x", x, dtype, x.rows(), x.cols());
  check_vector(kOp, "gain", gain, dtype, width);
  check_matrix(kOp, "y", y, dtype, x.rows(), x.cols());
  check_vector(kOp, "rstd", rstd, core::accumulate_dtype(dtype), x.rows() * heads);
  bodies.rms_norm_forward(context, x, gain, eps, heads, y, rstd);
}

void rms_norm_backward(OpContext& context, ConstTensorView dy, ConstTensorView x,
                       ConstTensorView gain, ConstTensorView rstd, std::int64_t heads,
                       ConstTensorView add, TensorView dx, TensorView dgain) {
  constexpr const char* kOp = "rms_norm_backward";
  const std::int64_t width = head_width(kOp, x, heads);
  const DType dtype = x.dtype();
  const OpBodies& bodies = bodies_for(context, kOp, {dy, x, gain, rstd, add, dx, dgain});
  check_matrix(kOp, "x", x, dtype, x.rows(), x.cols());
  check_matrix(kOp, "dy", dy, dtype, x.rows(), x.cols());
  check_vector(kOp, "gain", gain, dtype, width);
  check_vector(kOp, "rstd", rstd, core::accumulate_dtype(dtype), x.rows() * heads);
  check_matrix_or_empty(kOp, "add", add, dtype, x.rows(), x.cols());
  check_matrix(kOp, "dx", dx, dtype, x.rows(), x.cols());
  check_vector(kOp, "dgain", dgain, dtype, width);
  bodies.rms_norm_backward(context, dy, x, gain, rstd, heads, add, dx, dgain);
}

}  // namespace lockstep::ops
