#include "ops/matmul.h"

#include "ops/op_bodies.h"
#include "ops/op_checks.h"

namespace lockstep::ops {

using core::ConstTensorView;
using core::DType;
using core::TensorView;

void matmul(OpContext& context, ConstTensorView a, Transpose transpose_a, ConstTensorView b,
            Transpose transpose_b, TensorView out, ConstTensorView bias) {
  constexpr const char* kOp = "matmul";
  const DType dtype = a.dtype();
  if (!core::is_floating(dtype)) core::fail_not_floating(dtype);
  // a view without columns cannot tell its rows, so m and n come from out, k from either factor
  const std::int64_t m = out.rows();
  const std::int64_t n = out.cols();
  const bool k_is_cols_of_a = transpose_a == Transpose::kNo;
  const std::int64_t k = k_is_cols_of_a                   ? a.cols()
                         : transpose_b == Transpose::kYes ? b.cols()
                                                          : a.rows();
  const OpBodies& bodies = bodies_for(context, kOp, {a, b, out, bias});
  k_is_cols_of_a ? check_matrix(kOp, "a", a, dtype, m, k) : check_matrix(kOp, "a", a, dtype, k, m);
  transpose_b == Transpose::kNo ? check_matrix(kOp, "b", b, dtype, k, n)
                                : check_matrix(kOp, "b", b, dtype, n, k);
  check_vector_or_empty(kOp, "bias", bias, dtype, n);
  const DType accumulate = core::accumulate_dtype(dtype);
  check_matrix(kOp, "out", out, out.dtype() == accumulate ? accumulate : dtype, m, n);
  if (m == 0 || n == 0) return;
  bodies.matmul(context, a, transpose_a, b, transpose_b, out, bias);
}

}  // namespace lockstep::ops
