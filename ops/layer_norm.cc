#include "ops/layer_norm.h"

#include "ops/op_bodies.h"
#include "ops/op_checks.h"

namespace lockstep::ops {

using core::ConstTensorView;
using core::DType;
using core::TensorView;

void layer_norm_forward(OpContext& context, ConstTensorView x, ConstTensorView gain,
                        ConstTensorView bias, double eps, TensorView y, TensorView mean,
                        TensorView rstd) {
  constexpr const char* kOp = "layer_norm_forward";
  const std::int64_t rows = x.rows();
  const std::int64_t cols = x.cols();
  const DType dtype = x.dtype();
  const DType accumulate = core::accumulate_dtype(dtype);
  const OpBodies& bodies = bodies_for(context, kOp, {x, gain, bias, y, mean, rstd});
  check_matrix(kOp, "x", x, dtype, rows, cols);
  check_vector(kOp, "gain", gain, dtype, cols);
  check_vector_or_empty(kOp, "bias", bias, dtype, cols);
  check_matrix(kOp, "y", y, dtype, rows, cols);
  check_vector(kOp, "mean", mean, accumulate, rows);
  check_vector(kOp, "rstd", rstd, accumulate, rows);
  bodies.layer_norm_forward(context, x, gain, bias, eps, y, mean, rstd);
}

void layer_norm_backward(OpContext& context, ConstTensorView dy, ConstTensorView x,
                         ConstTensorView gain, ConstTensorView mean, ConstTensorView rstd,
                         ConstTensorView add, TensorView dx, TensorView dgain, TensorView dbias) {
  constexpr const char* kOp = "layer_norm_backward";
  const std::int64_t rows = x.rows();
  const std::int64_t cols = x.cols();
  const DType dtype = x.dtype();
  const DType accumulate = core::accumulate_dtype(dtype);
  const OpBodies& bodies =
      bodies_for(context, kOp, {dy, x, gain, mean, rstd, add, dx, dgain, dbias});
  check_matrix(kOp, "x", x, dtype, rows, cols);
  check_matrix(kOp, "dy", dy, dtype, rows, cols);
  check_vector(kOp, "gain", gain, dtype, cols);
  check_vector(kOp, "mean", mean, accumulate, rows);
  check_vector(kOp, "rstd", rstd, accumulate, rows);
  check_matrix_or_empty(kOp, "add", add, dtype, rows, cols);
  check_matrix(kOp, "dx", dx, dtype, rows, cols);
  check_vector(kOp, "dgain", dgain, dtype, cols);
  check_vector_or_empty(kOp, "dbias", dbias, dtype, cols);
  bodies.layer_norm_backward(context, dy, x, gain, mean, rstd, add, dx, dgain, dbias);
}

}  // namespace lockstep::ops
