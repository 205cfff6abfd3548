#include "ops/fused_matmul.h"

#include "ops/op_bodies.h"
#include "ops/op_checks.h"

namespace lockstep::ops {

using core::ConstTensorView;
using core::DType;
using core::TensorView;

void matmul_activation_forward(OpContext& context, ActivationFunction f, ConstTensorView x,
                               ConstTensorView weight, ConstTensorView bias, TensorView pre,
                               TensorView y) {
  constexpr const char* kOp = "matmul_activation_forward";
  const DType dtype = x.dtype();
  if (!core::is_floating(dtype)) core::fail_not_floating(dtype);
  const OpBodies& bodies = bodies_for(context, kOp, {x, weight, bias, pre, y});
  const std::int64_t m = pre.rows();
  const std::int64_t n = pre.cols();
  check_matrix(kOp, "x", x, dtype, m, x.cols());
  check_matrix(kOp, "weight", weight, dtype, n, x.cols());
  check_vector_or_empty(kOp, "bias", bias, dtype, n);
  check_matrix(kOp, "pre", pre, dtype, m, n);
  check_matrix(kOp, "y", y, dtype, m, n);
  bodies.matmul_activation_forward(context, f, x, weight, bias, pre, y);
}

void matmul_activation_backward(OpContext& context, ActivationFunction f, ConstTensorView dy,
                                ConstTensorView weight, ConstTensorView pre, TensorView dpre,
                                TensorView dbias) {
  constexpr const char* kOp = "matmul_activation_backward";
  const DType dtype = dy.dtype();
  if (!core::is_floating(dtype)) core::fail_not_floating(dtype);
  const OpBodies& bodies = bodies_for(context, kOp, {dy, weight, pre, dpre, dbias});
  const std::int64_t m = dpre.rows();
  const std::int64_t n = dpre.cols();
  check_matrix(kOp, "dy", dy, dtype, m, dy.cols());
  check_matrix(kOp, "weight", weight, dtype, dy.cols(), n);
  check_matrix(kOp, "pre", pre, dtype, m, n);
  check_matrix(kOp, "dpre", dpre, dtype, m, n);
  check_vector_or_empty(kOp, "dbias", dbias, dtype, n);
  bodies.matmul_activation_backward(context, f, dy, weight, pre, dpre, dbias);
}

void matmul_weight_gradient(OpContext& context, ConstTensorView dy, ConstTensorView x,
                            TensorView dweight, TensorView dbias) {
  constexpr const char* kOp = "matmul_weight_gradient";
  const DType dtype = dy.dtype();
  if (!core::is_floating(dtype)) core::fail_not_floating(dtype);
  const OpBodies& bodies = bodies_for(context, kOp, {dy, x, dweight, dbias});
  const std::int64_t n = dweight.rows();
  const std::int64_t k = dweight.cols();
  check_matrix(kOp, "dy", dy, dtype, dy.rows(), n);
  check_matrix(kOp, "x", x, dtype, dy.rows(), k);
  const DType accumulate = core::accumulate_dtype(dtype);
  check_matrix(kOp, "dweight", dweight, dweight.dtype() == accumulate ? accumulate : dtype, n, k);
  check_vector_or_empty(kOp, "dbias", dbias, dtype, n);
  bodies.matmul_weight_gradient(context, dy, x, dweight, dbias);
}

}  // namespace lockstep::ops
