#include "models/head.h"

#include <algorithm>

#include "core/check.h"
#include "models/mlp.h"
#include "ops/cross_entropy.h"
#include "ops/dropout.h"
#include "ops/matmul.h"
#include "ops/reduce.h"
#include "ops/scale.h"
#include "ops/transfer.h"

namespace lockstep::models {

using core::ConstTensorView;
using core::TensorView;

namespace {

constexpr const char* kDropoutSite = "head.pooler";

const HeadSlots& head_slots(const Pass& pass) {
  return pass.activations.plan().head;
}

TensorView pooled_view(const Pass& pass, const Slot& slot) {
  return pass.activations.view(slot, {pass.batch.sequences, pass.config.width});
}

// The first token of each sequence: [B, C], rows T*C apart.
TensorView first_tokens(const Pass& pass, TensorView x) {
  return {x.raw(),
          x.dtype(),
          {pass.batch.sequences, x.cols()},
          pass.batch.length * x.cols(),
          x.device()};
}

// Gradients of the two norms of a head wait here until their bucket opens.
TensorView row_view(const Pass& pass, const Slot& slot) {
  return pass.activations.view(slot, {pass.config.width});
}

}  // namespace

Head::Head(const ModelConfig& config, const ParameterTable& table)
    : norm_(NormLayer::find(table, "head.norm")), dense_function_(ops::ActivationFunction::kTanh) {
  if (config.task == Task::kClassification) {
    dense_ = LinearLayer::find(table, "head.pooler");
    output_ = LinearLayer::find(table, "head.classifier");
    return;
  }
  if (config.task == Task::kMaskedLm) {
    dense_ = LinearLayer::find(table, "head.transform");
    dense_function_ = pointwise_function(config.activation);
    transform_norm_ = NormLayer::find(table, "head.transform_norm");
  }
  const char* weight = config.tie_embeddings ? "embeddings.token.weight" : "head.weight";
  output_ = {table.find(weight), table.find("head.bias")};
}

TensorView Head::logits(const Pass& pass) const {
  const ModelConfig& config = pass.config;
  const bool classifies = config.task == Task::kClassification;
  const HeadSlots& slots = head_slots(pass);
  const std::int64_t rows = classifies ? pass.batch.sequences : pass.rows();
  const TensorView with_gaps = pass.activations.view(slots.logits, {rows, slots.logits_stride});
  return with_gaps.slice_cols(0, classifies ? config.classes : config.vocab);
}

// In place of the logits: same rows, compute type, so that a 16-bit row fills half of its row.
TensorView Head::logit_gradients(const Pass& pass) const {
  const TensorView z = logits(pass);
  const core::DType compute = pass.stream(head_slots(pass).input).dtype();
  const auto ratio = static_cast<std::int64_t>(core::size_of(z.dtype()) / core::size_of(compute));
  return {z.raw(), compute, z.shape(), z.row_stride() * ratio, z.device()};
}

TensorView Head::features(const Pass& pass) const {
  const HeadSlots& slots = head_slots(pass);
  return pass.stream(pass.config.final_norm() ? slots.normed : slots.input);
}

TensorView Head::output_input(const Pass& pass) const {
  switch (pass.config.task) {
    case Task::kCausalLm:
      return features(pass);
    case Task::kMaskedLm:
      return pass.stream(head_slots(pass).transformed);
    case Task::kClassification:
      return pooled_view(pass, head_slots(pass).pooled);
  }
  core::fail_check(__FILE__, __LINE__, "task", "unknown task");
}

// mup: the logits are divided by the width multiplier, in what they are made of, which nothing else
// reads; the gradient of that the same way.
void Head::scale_for_width(const Pass& pass, TensorView x) {
  const double multiplier = pass.config.width_multiplier();
  if (multiplier != 1.0) ops::scale(pass.ops, 1.0 / multiplier, x.reshaped({x.elements()}));
}

TensorView Head::forward(const Pass& pass) const {
  const HeadSlots& slots = head_slots(pass);
  if (pass.config.final_norm())
    norm_forward(pass, norm_, slots.norm, pass.stream(slots.input), pass.stream(slots.normed));
  if (pass.config.task == Task::kMaskedLm) forward_transform(pass);
  if (pass.config.task == Task::kClassification) forward_pooler(pass);
  scale_for_width(pass, output_input(pass));
  const TensorView z = logits(pass);
  linear_forward(pass, output_, output_input(pass), z);
  return z;
}

void Head::loss(const Pass& pass, std::span<const std::int32_t> targets,
                const ops::LossOptions& options, bool differentiate, ops::LossSums* sums) const {
  const TensorView dlogits = differentiate ? logit_gradients(pass) : TensorView{};
  ops::cross_entropy(pass.ops, logits(pass), targets, options, pass.config.logit_softcap, dlogits,
                     sums);
}

void Head::backward(const Pass& pass, const ParameterTable& table, GradientSink& sink,
                    TensorView dstream) const {
  const HeadSlots& slots = head_slots(pass);
  const TensorView dlogits = logit_gradients(pass);
  if (pass.gradients().tied.bytes > 0) {
    const TensorView tied =
        pass.activations.view(pass.gradients().tied, {pass.config.vocab, pass.config.width});
    linear_weight_backward(pass, dlogits, output_input(pass), tied, {});
  }
  if (pass.config.task == Task::kCausalLm) {
    linear_input_backward(pass, output_, dlogits, dstream);
    scale_for_width(pass, dstream);
  } else if (pass.config.task == Task::kMaskedLm) {
    const TensorView doutput = pass.stream(pass.gradients().inner);
    linear_input_backward(pass, output_, dlogits, doutput);
    backward_transform(pass, doutput, dstream);
  } else {
    const TensorView doutput = pooled_view(pass, pass.gradients().inner);
    linear_input_backward(pass, output_, dlogits, doutput);
    backward_pooler(pass, doutput, dstream);
  }
  if (pass.config.final_norm()) {
    const TensorView dbias =
        norm_.bias == kNoParameter ? TensorView{} : row_view(pass, pass.gradients().norm_bias);
    norm_backward(pass, norm_, slots.norm, dstream, pass.stream(slots.input), {}, dstream,
                  row_view(pass, pass.gradients().norm_gain), dbias);
  }
  const GroupIndex group = table.groups() - 1;
  write_group(sink, table, group, [&](const ParameterPiece& piece, TensorView out) {
    write_piece(pass, table, piece, out);
  });
}

void Head::forward_transform(const Pass& pass) const {
  const HeadSlots& slots = head_slots(pass);
  const TensorView transform = pass.stream(slots.transform);
  const TensorView activated = pass.stream(slots.activated);
  linear_forward(pass, dense_, features(pass), transform);
  ops::activation_forward(pass.ops, dense_function_, transform, activated);
  norm_forward(pass, transform_norm_, slots.transform_norm, activated,
               pass.stream(slots.transformed));
}

// doutput becomes the gradient of the dense layer's output, which write_piece reads.
void Head::backward_transform(const Pass& pass, TensorView doutput, TensorView dx) const {
  const HeadSlots& slots = head_slots(pass);
  const TensorView dbias = transform_norm_.bias == kNoParameter
                               ? TensorView{}
                               : row_view(pass, pass.gradients().transform_bias);
  norm_backward(pass, transform_norm_, slots.transform_norm, doutput, pass.stream(slots.activated),
                {}, doutput, row_view(pass, pass.gradients().transform_gain), dbias);
  ops::activation_backward(pass.ops, dense_function_, pass.stream(slots.transform), doutput,
                           doutput);
  linear_input_backward(pass, dense_, doutput, dx);
}

void Head::forward_pooler(const Pass& pass) const {
  const TensorView pooler = pooled_view(pass, head_slots(pass).pooler);
  const TensorView pooled = pooled_view(pass, head_slots(pass).pooled);
  linear_forward(pass, dense_, first_tokens(pass, features(pass)), pooler);
  ops::activation_forward(pass.ops, dense_function_, pooler, pooled);
  const ops::Dropout dropout = pass.dropout(kDropoutSite, 1);
  if (dropout.active()) ops::dropout(pass.ops, pooled, dropout, pooled);
}

void Head::backward_pooler(const Pass& pass, TensorView doutput, TensorView dx) const {
  const ops::Dropout dropout = pass.dropout(kDropoutSite, 1);
  if (dropout.active()) ops::dropout(pass.ops, doutput, dropout, doutput);
  ops::activation_backward(pass.ops, dense_function_, pooled_view(pass, head_slots(pass).pooler),
                           doutput, doutput);
  ops::set_zero(pass.ops, dx);  // the other tokens are not read
  linear_input_backward(pass, dense_, doutput, first_tokens(pass, dx));
}

// The gradient of rows of a parameter; everything it needs has been computed by then.
void Head::write_piece(const Pass& pass, const ParameterTable& table, const ParameterPiece& piece,
                       TensorView out) const {
  const GradientSlots& kept = pass.gradients();
  const bool classifies = pass.config.task == Task::kClassification;
  const TensorView ddense = classifies ? pooled_view(pass, kept.inner) : pass.stream(kept.inner);
  const TensorView x = features(pass);
  const TensorView dense_input = classifies ? first_tokens(pass, x) : x;
  const auto weight_rows = [&](ConstTensorView dy, ConstTensorView input) {
    for (std::int64_t begin = piece.row_begin; begin < piece.row_end; begin += kSplitRows) {
      const std::int64_t end = std::min(piece.row_end, begin + kSplitRows);
      linear_weight_backward(pass, dy.slice_cols(begin, end), input,
                             out.slice_rows(begin - piece.row_begin, end - piece.row_begin), {});
    }
  };
  const ParameterId id = piece.parameter;
  if (id == output_.weight) {
    weight_rows(logit_gradients(pass), output_input(pass));
  } else if (id == output_.bias) {
    ops::column_sum(pass.ops, logit_gradients(pass), out);
  } else if (id == dense_.weight) {
    weight_rows(ddense, dense_input);
  } else if (id == dense_.bias) {
    ops::column_sum(pass.ops, ddense, out);
  } else {
    const Slot* slot = id == norm_.gain             ? &kept.norm_gain
                       : id == norm_.bias           ? &kept.norm_bias
                       : id == transform_norm_.gain ? &kept.transform_gain
                       : id == transform_norm_.bias ? &kept.transform_bias
                                                    : nullptr;
    LOCKSTEP_CHECK(slot != nullptr, "{} does not belong to the head", table[id].name);
    ops::copy(pass.ops, row_view(pass, *slot), out);
  }
}

}  // namespace lockstep::models
