#pragma once

#include <string>

#include "ops/fused_matmul.h"

// The products of matmul.h and fused_matmul.h by cuBLASLt (library.h says which algorithm
// and when in one call). What it has no algorithm for is done by our own kernels, in steps.
namespace lockstep::ops::cuda {

void cublaslt_matmul(OpContext& context, core::ConstTensorView a, Transpose transpose_a,
                     core::ConstTensorView b, Transpose transpose_b, core::TensorView out,
                     core::ConstTensorView bias);

// In one call for gelu_tanh: cuBLASLt's GELU is the tanh form, the exact one is another function.
void cublaslt_matmul_activation_forward(OpContext& context, ActivationFunction f,
                                        core::ConstTensorView x, core::ConstTensorView weight,
                                        core::ConstTensorView bias, core::TensorView pre,
                                        core::TensorView y);
void cublaslt_matmul_activation_backward(OpContext& context, ActivationFunction f,
                                         core::ConstTensorView dy, core::ConstTensorView weight,
                                         core::ConstTensorView pre, core::TensorView dpre,
                                         core::TensorView dbias);

void cublaslt_matmul_weight_gradient(OpContext& context, core::ConstTensorView dy,
                                     core::ConstTensorView x, core::TensorView dweight,
                                     core::TensorView dbias);

// The handle and the chosen algorithms of one context (Libraries::cublaslt).
void* open_cublaslt(OpContext& context);
void close_cublaslt(void* library) noexcept;
std::string describe_cublaslt_choices(const void* library);

}  // namespace lockstep::ops::cuda
