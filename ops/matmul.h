#pragma once

#include "core/tensor.h"
#include "ops/op_context.h"

namespace lockstep::ops {

enum class Transpose { kNo, kYes };

// out[M, N] = op(a)[M, K] * op(b)[K, N] + bias[N], accumulated in fp32 (fp64 for fp64) and rounded
// once to out's dtype.
//   a:    [M, K], or [K, M] with Transpose::kYes
//   b:    [K, N], or [N, K] with Transpose::kYes
//   bias: [N] or empty
// a, b (and bias) have one floating dtype; out has the same, or fp32. All views may be strided by
// rows. The work is cut into tiles that depend on (M, N, K, dtypes, transposes) alone, so the bits
// do not depend on the number of threads. Empty K gives bias (or zeros). Throws Error(kInternal) on
// shapes or dtypes that do not fit.
void matmul(OpContext& context, core::ConstTensorView a, Transpose transpose_a,
            core::ConstTensorView b, Transpose transpose_b, core::TensorView out,
            core::ConstTensorView bias = {});

}  // namespace lockstep::ops
