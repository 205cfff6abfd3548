#pragma once

#include <cstdint>
#include <span>

#include "core/tensor.h"
#include "models/gradient_buckets.h"
#include "models/linear_layer.h"
#include "models/norm_layer.h"
#include "models/parameter_table.h"
#include "models/pass.h"
#include "ops/activation.h"

namespace lockstep::models {

// The residual stream to logits and loss. x is the stream, after the final norm with pre-norm.
//   causal_lm:      logits = x W^T                                        [N, V]
//   masked_lm:      logits = norm(f(x Wt^T + b)) W^T + b                  [N, V]
//   classification: logits = dropout(tanh(x0 Wp^T + b)) Wc^T + b          [B, classes]
// W is the token table when tied, f the model's activation (of a gated one, the function of its
// gate), x0 the first token of each sequence.
class Head {
 public:
  Head(const ModelConfig& config, const ParameterTable& table);

  // The plan's head.input -> logits in the accumulate dtype, before the softcap.
  core::TensorView forward(const Pass& pass) const;

  // From logits to the loss; with `differentiate` their memory then holds dlogits.
  void loss(const Pass& pass, std::span<const std::int32_t> targets,
            const ops::LossOptions& options, bool differentiate, ops::LossSums* sums) const;

  // From dlogits: fills the buckets of the group, dstream: [N, C] (the gradient of head.input), and
  // the gradient slot `tied` where the output is tied.
  void backward(const Pass& pass, const ParameterTable& table, GradientSink& sink,
                core::TensorView dstream) const;

 private:
  core::TensorView logits(const Pass& pass) const;
  core::TensorView logit_gradients(const Pass& pass) const;
  static void scale_for_width(const Pass& pass, core::TensorView x);
  core::TensorView features(const Pass& pass) const;      // x above
  core::TensorView output_input(const Pass& pass) const;  // what the last linear layer reads
  void forward_transform(const Pass& pass) const;
  void forward_pooler(const Pass& pass) const;
  void backward_transform(const Pass& pass, core::TensorView doutput, core::TensorView dx) const;
  void backward_pooler(const Pass& pass, core::TensorView doutput, core::TensorView dx) const;
  void write_piece(const Pass& pass, const ParameterTable& table, const ParameterPiece& piece,
                   core::TensorView out) const;

  NormLayer norm_;
  LinearLayer dense_;  // masked_lm: transform; classification: pooler
  ops::ActivationFunction dense_function_;
  NormLayer transform_norm_;
  LinearLayer output_;  // weight: the token table when tied
};

}  // namespace lockstep::models
