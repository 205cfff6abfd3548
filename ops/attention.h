#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "ops/dropout.h"
#include "ops/op_context.h"

namespace lockstep::ops {

// Sizes and mode of scaled dot-product attention. Query head h reads key/value head h / (heads /
// kv_heads).
struct AttentionSpec {
  std::int64_t sequences = 0;   // B
  std::int64_t length = 0;      // T
  std::int64_t heads = 0;       // H
  std::int64_t kv_heads = 0;    // K, divides H
  std::int64_t head_width = 0;  // D
  bool causal = true;           // position t sees positions <= t
  std::int64_t window = 0;      // of a causal mask: only the last `window` of those; 0: all
  double scale = 0.0;           // 1/sqrt(D)
  Dropout dropout;  // on probabilities; element index within a sequence: (h*T + query)*T + key
};

// out = dropout(softmax(scale * q k^T)) v, computed block by block with an online softmax (row
// maximum subtracted; Milakov & Gimelshein 2018; Dao et al. 2022), so that no T x T matrix exists.
// q, out: [B*T, H*D]; k, v: [B*T, K*D] (row-strided slices are fine). lse: [B*H, T] in the
// accumulate dtype: log-sum-exp of the scaled scores, kept for backward.
void attention_forward(OpContext& context, const AttentionSpec& spec, core::ConstTensorView q,
                       core::ConstTensorView k, core::ConstTensorView v, core::TensorView out,
                       core::TensorView lse);

// Gradients of the above; dq, dk, dv have the shapes of q, k, v, are overwritten and may not
// overlap them. The probabilities are recomputed from q, k and lse.
void attention_backward(OpContext& context, const AttentionSpec& spec, core::ConstTensorView dout,
                        core::ConstTensorView q, core::ConstTensorView k, core::ConstTensorView v,
                        core::ConstTensorView out, core::ConstTensorView lse, core::TensorView dq,
                        core::TensorView dk, core::TensorView dv);

}  // namespace lockstep::ops
