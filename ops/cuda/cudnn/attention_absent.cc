#include "ops/cuda/bodies.h"
#include "ops/cuda/cudnn/attention.h"

// The same where the module is built without cuDNN's headers: the own kernels serve everything.
namespace lockstep::ops::cuda {

using core::ConstTensorView;
using core::TensorView;

void cudnn_attention_forward(OpContext& context, const AttentionSpec& spec, ConstTensorView q,
                             ConstTensorView k, ConstTensorView v, TensorView out, TensorView lse) {
  flash_attention_forward(context, spec, q, k, v, out, lse);
}

void cudnn_attention_backward(OpContext& context, const AttentionSpec& spec, ConstTensorView dout,
                              ConstTensorView q, ConstTensorView k, ConstTensorView v,
                              ConstTensorView out, ConstTensorView lse, TensorView dq,
                              TensorView dk, TensorView dv) {
  flash_attention_backward(context, spec, dout, q, k, v, out, lse, dq, dk, dv);
}

const char* cudnn_attention_server(const OpContext&) {
  return "own kernels: built without cuDNN";
}

void close_cudnn_attention(void*) noexcept {}

}  // namespace lockstep::ops::cuda
