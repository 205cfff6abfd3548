#pragma once

#include "ops/attention.h"

namespace lockstep::ops::cuda {

// Attention by cuDNN, where the context leaves the order of sums to chance (Determinism::kNone),
// the library is found and serves the call: bf16 or fp16, no dropout, at least two positions, heads
// of a multiple of 8 up to 256, rows on 16 bytes, and whatever else cuDNN asks of a shape on this
// device. All other calls go to flash_attention_forward and _backward, which give and take the same
// lse, so that either may serve either half.
//
// A shape is planned when it is first met: the engines that cuDNN proposes are timed on it, and the
// fastest is kept. Backward adds up dq by atomics, so its last bits vary from call to call.
void cudnn_attention_forward(OpContext& context, const AttentionSpec& spec, core::ConstTensorView q,
                             core::ConstTensorView k, core::ConstTensorView v, core::TensorView out,
                             core::TensorView lse);
void cudnn_attention_backward(OpContext& context, const AttentionSpec& spec,
                              core::ConstTensorView dout, core::ConstTensorView q,
                              core::ConstTensorView k, core::ConstTensorView v,
                              core::ConstTensorView out, core::ConstTensorView lse,
                              core::TensorView dq, core::TensorView dk, core::TensorView dv);

// OpBodies::attention_server.
const char* cudnn_attention_server(const OpContext& context);

// Ends what Libraries::cudnn holds; null is nothing.
void close_cudnn_attention(void* kept) noexcept;

}  // namespace lockstep::ops::cuda
