#pragma once

#include <string>

#include "core/tensor.h"
#include "models/gradient_buckets.h"
#include "models/linear_layer.h"
#include "models/parameter_table.h"
#include "models/pass.h"
#include "ops/attention.h"
#include "ops/rope.h"

namespace lockstep::models {

// Multi-head self-attention of one block, without norm and residual:
//   q | k | v = x Wqkv^T + b        (one matrix in family gpt, three in llama and bert)
//   q, k = RMSNorm over each head   (qk_norm)
//   q, k = rotated by position      (rope)
//   y = attention(q, k, v) Wout^T + b
class AttentionLayer {
 public:
  AttentionLayer(const ModelConfig& config, const ParameterTable& table, int block);

  // x: [N, C] -> y: [N, C]; keeps `slots`.
  void forward(const Pass& pass, const AttentionSlots& slots, core::ConstTensorView x,
               core::TensorView y) const {
    forward_context(pass, slots, x);
    project_output(pass, slots, y);
  }
  // Its two halves: from x to what is kept, and from that to y.
  void forward_context(const Pass& pass, const AttentionSlots& slots,
                       core::ConstTensorView x) const;
  void project_output(const Pass& pass, const AttentionSlots& slots, core::TensorView y) const;

  // dy, x: [N, C] -> dx: [N, C] and the gradients of this layer's parameters. dy may be the
  // gradient slot `branch`, which serves as a temporary once dy is used up; dx may be neither.
  void backward(const Pass& pass, const AttentionSlots& slots, core::ConstTensorView dy,
                core::ConstTensorView x, BlockGradients& gradients, core::TensorView dx) const;

 private:
  // The three parts of a row, views into one or two buffers.
  struct Heads {
    core::TensorView q;  // [N, H*D]
    core::TensorView k;  // [N, kv_width]
    core::TensorView v;  // [N, kv_width]
  };
  static Heads split(const Pass& pass, core::TensorView qkv);
  Heads attention_inputs(const Pass& pass, const AttentionSlots& slots) const;
  void attend(const Pass& pass, const AttentionSlots& slots, const Heads& heads) const;
  ops::AttentionSpec spec(const Pass& pass) const;

  void project(const Pass& pass, core::ConstTensorView x, core::TensorView qkv) const;
  void norm_heads(const Pass& pass, const AttentionSlots& slots) const;
  void norm_heads_backward(const Pass& pass, const AttentionSlots& slots, Heads gradient,
                           BlockGradients& gradients) const;
  void rotate(const Pass& pass, ops::RopeDirection direction, core::TensorView q,
              core::TensorView k) const;
  void project_backward(const Pass& pass, core::TensorView dqkv, core::ConstTensorView x,
                        BlockGradients& gradients, core::TensorView dx) const;

  int block_;
  std::string dropout_site_;  // "block.3.attention.probabilities"
  bool fused_;                // qkv_ alone, else q_, k_, v_
  LinearLayer qkv_, q_, k_, v_, out_;
  ParameterId q_norm_ = kNoParameter;
  ParameterId k_norm_ = kNoParameter;
};

}  // namespace lockstep::models
