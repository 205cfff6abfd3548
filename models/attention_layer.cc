#include "models/attention_layer.h"

#include "models/parametrization.h"

#include <fmt/format.h>

#include <cmath>

#include "ops/cached_attention.h"
#include "ops/rms_norm.h"

namespace lockstep::models {

using core::ConstTensorView;
using core::TensorView;

AttentionLayer::AttentionLayer(const ModelConfig& config, const ParameterTable& table, int block)
    : block_(block), fused_(config.family == Family::kGpt) {
  const std::string name = fmt::format("block.{}.attention.", block);
  dropout_site_ = name + "probabilities";
  if (fused_) {
    qkv_ = LinearLayer::find(table, name + "qkv");
  } else {
    q_ = LinearLayer::find(table, name + "q");
    k_ = LinearLayer::find(table, name + "k");
    v_ = LinearLayer::find(table, name + "v");
  }
  out_ = LinearLayer::find(table, name + "out");
  q_norm_ = table.find(name + "q_norm.weight");
  k_norm_ = table.find(name + "k_norm.weight");
}

AttentionLayer::Heads AttentionLayer::split(const Pass& pass, TensorView qkv) {
  const std::int64_t width = pass.config.q_width();
  const std::int64_t kv_width = pass.config.kv_width();
  return {qkv.slice_cols(0, width), qkv.slice_cols(width, width + kv_width),
          qkv.slice_cols(width + kv_width, width + 2 * kv_width)};
}

// What the attention op reads: q and k after norm and rotation.
AttentionLayer::Heads AttentionLayer::attention_inputs(const Pass& pass,
                                                       const AttentionSlots& slots) const {
  const std::int64_t width = pass.config.q_width();
  const std::int64_t kv_width = pass.config.kv_width();
  Heads heads = split(pass, pass.positioned(slots.qkv, pass.config.qkv_width()));
  if (pass.config.qk_norm) {
    const TensorView qk = pass.positioned(slots.qk, width + kv_width);
    heads.q = qk.slice_cols(0, width);
    heads.k = qk.slice_cols(width, width + kv_width);
  }
  return heads;
}

ops::AttentionSpec AttentionLayer::spec(const Pass& pass) const {
  ops::AttentionSpec spec;
  spec.sequences = pass.batch.sequences;
  spec.length = pass.batch.length;
  spec.heads = pass.config.heads;
  spec.kv_heads = pass.config.kv_heads;
  spec.head_width = pass.config.head_width();
  spec.causal = pass.config.causal();
  const std::int64_t window = pass.config.window_of(block_);
  spec.window = window < pass.first_position + pass.batch.length ? window : 0;
  spec.scale = attention_scale(pass.config);
  spec.dropout = pass.dropout(dropout_site_, pass.batch.length);
  return spec;
}

void AttentionLayer::forward_context(const Pass& pass, const AttentionSlots& slots,
                                     ConstTensorView x) const {
  project(pass, x, pass.positioned(slots.qkv, pass.config.qkv_width()));
  if (pass.config.qk_norm) norm_heads(pass, slots);
  const Heads heads = attention_inputs(pass, slots);
  rotate(pass, ops::RopeDirection::kForward, heads.q, heads.k);
  attend(pass, slots, heads);
}

void AttentionLayer::project_output(const Pass& pass, const AttentionSlots& slots,
                                    TensorView y) const {
  linear_forward(pass, out_, pass.tokens(slots.context, pass.config.q_width()), y);
}

void AttentionLayer::attend(const Pass& pass, const AttentionSlots& slots,
                            const Heads& heads) const {
  const TensorView context = pass.tokens(slots.context, pass.config.q_width());
  if (pass.first_position == 0) {
    const TensorView lse = pass.activations.view(
        slots.lse, {pass.batch.sequences * pass.config.heads, pass.batch.length});
    ops::attention_forward(pass.ops, spec(pass), heads.q, heads.k, heads.v, context, lse);
    return;
  }
  const std::int64_t width = pass.config.q_width();
  const std::int64_t kv_width = pass.config.kv_width();
  const TensorView qkv = pass.all_positions(slots.qkv, pass.config.qkv_width());
  const TensorView k =
      pass.config.qk_norm
          ? pass.all_positions(slots.qk, width + kv_width).slice_cols(width, width + kv_width)
          : qkv.slice_cols(width, width + kv_width);
  const TensorView v = qkv.slice_cols(width + kv_width, width + 2 * kv_width);
  ops::cached_attention(pass.ops, spec(pass), heads.q, k, v, context);
}

void AttentionLayer::backward(const Pass& pass, const AttentionSlots& slots, ConstTensorView dy,
                              ConstTensorView x, BlockGradients& gradients, TensorView dx) const {
  const TensorView context = pass.tokens(slots.context, pass.config.q_width());
  linear_weight_backward(pass, dy, context, gradients.gradient(out_.weight),
                         gradients.gradient(out_.bias));
  // Of a width of its own only where the heads together are not as wide as the stream.
  const Slot& own = pass.gradients().context;
  const TensorView dcontext = own.bytes > 0 ? pass.tokens(own, pass.config.q_width()) : dx;
  linear_input_backward(pass, out_, dy, dcontext);

  const Heads heads = attention_inputs(pass, slots);
  const TensorView dqkv = pass.tokens(pass.gradients().wide, pass.config.qkv_width());
  const Heads gradient = split(pass, dqkv);
  const TensorView lse = pass.activations.view(
      slots.lse, {pass.batch.sequences * pass.config.heads, pass.batch.length});
  ops::attention_backward(pass.ops, spec(pass), dcontext, heads.q, heads.k, heads.v, context, lse,
                          gradient.q, gradient.k, gradient.v);

  rotate(pass, ops::RopeDirection::kBackward, gradient.q, gradient.k);
  if (pass.config.qk_norm) norm_heads_backward(pass, slots, gradient, gradients);
  project_backward(pass, dqkv, x, gradients, dx);
}

void AttentionLayer::project(const Pass& pass, ConstTensorView x, TensorView qkv) const {
  if (fused_) {
    linear_forward(pass, qkv_, x, qkv);
    return;
  }
  const Heads heads = split(pass, qkv);
  linear_forward(pass, q_, x, heads.q);
  linear_forward(pass, k_, x, heads.k);
  linear_forward(pass, v_, x, heads.v);
}

void AttentionLayer::project_backward(const Pass& pass, TensorView dqkv, ConstTensorView x,
                                      BlockGradients& gradients, TensorView dx) const {
  if (fused_) {
    linear_weight_backward(pass, dqkv, x, gradients.gradient(qkv_.weight),
                           gradients.gradient(qkv_.bias));
    linear_input_backward(pass, qkv_, dqkv, dx);
    return;
  }
  const Heads gradient = split(pass, dqkv);
  const auto weight_backward = [&](const LinearLayer& layer, TensorView dy) {
    linear_weight_backward(pass, dy, x, gradients.gradient(layer.weight),
                           gradients.gradient(layer.bias));
  };
  weight_backward(q_, gradient.q);
  weight_backward(k_, gradient.k);
  weight_backward(v_, gradient.v);

  const TensorView part = pass.stream(pass.gradients().branch);
  linear_input_backward(pass, q_, gradient.q, dx);
  linear_input_backward(pass, k_, gradient.k, part);
  add_in_place(pass.ops, dx, part);
  linear_input_backward(pass, v_, gradient.v, part);
  add_in_place(pass.ops, dx, part);
}

// From the projected q, k to the slot qk; backward needs both sides.
void AttentionLayer::norm_heads(const Pass& pass, const AttentionSlots& slots) const {
  const ModelConfig& config = pass.config;
  const Heads from = split(pass, pass.positioned(slots.qkv, config.qkv_width()));
  const Heads to = attention_inputs(pass, slots);
  ops::rms_norm_forward(pass.ops, from.q, pass.parameter(q_norm_), config.norm_eps, config.heads,
                        to.q, pass.stats(slots.q_rstd, config.heads));
  ops::rms_norm_forward(pass.ops, from.k, pass.parameter(k_norm_), config.norm_eps, config.kv_heads,
                        to.k, pass.stats(slots.k_rstd, config.kv_heads));
}

void AttentionLayer::norm_heads_backward(const Pass& pass, const AttentionSlots& slots,
                                         Heads gradient, BlockGradients& gradients) const {
  const ModelConfig& config = pass.config;
  const Heads input = split(pass, pass.tokens(slots.qkv, config.qkv_width()));
  const auto wanted = [&](ParameterId id) {
    const TensorView dgain = gradients.gradient(id);
    return dgain.empty() ? pass.unwanted_gradient(config.head_width()) : dgain;
  };
  ops::rms_norm_backward(pass.ops, gradient.q, input.q, pass.parameter(q_norm_),
                         pass.stats(slots.q_rstd, config.heads), config.heads, {}, gradient.q,
                         wanted(q_norm_));
  ops::rms_norm_backward(pass.ops, gradient.k, input.k, pass.parameter(k_norm_),
                         pass.stats(slots.k_rstd, config.kv_heads), config.kv_heads, {}, gradient.k,
                         wanted(k_norm_));
}

void AttentionLayer::rotate(const Pass& pass, ops::RopeDirection direction, TensorView q,
                            TensorView k) const {
  if (pass.config.positions != Positions::kRope) return;
  const std::int64_t head_width = pass.config.head_width();
  const PositionSlots& tables = pass.activations.plan().positions;
  const core::Shape shape{pass.config.context, head_width / 2};
  const TensorView cosines = pass.activations.view(tables.cosines, shape);
  const TensorView sines = pass.activations.view(tables.sines, shape);
  const auto from_first = [&](const TensorView& table) {
    return table.slice_rows(pass.first_position, pass.config.context);
  };
  for (const TensorView& x : {q, k})
    ops::rope(pass.ops, direction, pass.batch.length, head_width, from_first(cosines),
              from_first(sines), x);
}

}  // namespace lockstep::models
