#pragma once

#include <string>

#include "core/tensor.h"
#include "models/attention_layer.h"
#include "models/gradient_buckets.h"
#include "models/mlp.h"
#include "models/norm_layer.h"
#include "models/parameter_table.h"
#include "models/pass.h"

namespace lockstep::models {

// One Transformer block: attention and MLP, each with its norm and its residual connection.
//   pre:  middle = x + g * dropout(attention(norm(x)))
//         y      = middle + g * dropout(mlp(norm(middle)))
//   post: middle = norm(x + g * dropout(attention(x)))
//         y      = norm(middle + g * dropout(mlp(middle)))
// g: the scalar residual gate of the branch, or 1.
class Block {
 public:
  Block(const ModelConfig& config, const ParameterTable& table, int index);

  // slots.input -> y: [N, C].
  void forward(const Pass& pass, const BlockSlots& slots, core::TensorView y) const;

  // Computes again, from slots.input, what backward reads and later blocks have overwritten: with
  // Recompute::kBlock everything, with kAttention what leads to the attention's output projection.
  // The same ops on the same operands, hence the same bits; what only y needs is left out.
  void recompute(const Pass& pass, const BlockSlots& slots) const;

  // dstream: [N, C], the gradient of y on entry and of slots.input on return. Fills `gradients`
  // completely.
  void backward(const Pass& pass, const BlockSlots& slots, BlockGradients& gradients,
                core::TensorView dstream) const;

 private:
  // One residual connection: where its branch's dropout and gate are.
  struct Residual {
    std::string dropout_site;
    ParameterId gate = kNoParameter;
  };

  void forward_pre(const Pass& pass, const BlockSlots& slots, core::TensorView y) const;
  void forward_post(const Pass& pass, const BlockSlots& slots, core::TensorView y) const;
  void recompute_pre(const Pass& pass, const BlockSlots& slots) const;
  void recompute_post(const Pass& pass, const BlockSlots& slots) const;
  void backward_pre(const Pass& pass, const BlockSlots& slots, BlockGradients& gradients,
                    core::TensorView dstream) const;
  void backward_post(const Pass& pass, const BlockSlots& slots, BlockGradients& gradients,
                     core::TensorView dstream) const;

  // Where a branch's output goes: kept for the gradient of its gate, else a temporary.
  static core::TensorView branch_output(const Pass& pass, const Slot& kept);
  // y = x + g * dropout(branch)
  static void join(const Pass& pass, const Residual& residual, core::ConstTensorView x,
                   core::ConstTensorView branch, core::TensorView y);
  // The gradient of the branch's output, and of the gate: dy itself where the branch is only added.
  static core::ConstTensorView branch_gradient(const Pass& pass, const Residual& residual,
                                               const Slot& kept, core::ConstTensorView dy,
                                               BlockGradients& gradients);
  static void norm_gradient(const Pass& pass, const NormLayer& norm, const NormSlots& stats,
                            core::ConstTensorView dy, core::ConstTensorView x,
                            core::ConstTensorView add, BlockGradients& gradients,
                            core::TensorView dx);

  NormLayer attention_norm_, mlp_norm_;
  AttentionLayer attention_;
  Mlp mlp_;
  Residual attention_residual_, mlp_residual_;
};

}  // namespace lockstep::models
