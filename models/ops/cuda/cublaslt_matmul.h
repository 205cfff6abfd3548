#pragma once

#include "models/ops/matmul.h"

namespace lockstep::models::ops::cuda {

// matmul() by cuBLASLt: fp32 in fp32 (no TF32), 16 bits with sums in fp32, the bias in the
// epilogue. The algorithm of a product is cuBLASLt's first heuristic for its shape, strides and
// alignment, asked once and kept, with split sums only where they are added in a fixed order.
void cublaslt_matmul(OpContext& context, core::ConstTensorView a, Transpose transpose_a,
                     core::ConstTensorView b, Transpose transpose_b, core::TensorView out,
                     core::ConstTensorView bias);

// The handle and the chosen algorithms of one context (Libraries::cublaslt).
void* open_cublaslt(OpContext& context);
void close_cublaslt(void* libraries) noexcept;

}  // namespace lockstep::models::ops::cuda
