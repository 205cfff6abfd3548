#include "models/block.h"

#include <fmt/format.h>

#include "ops/residual.h"

namespace lockstep::models {

using core::ConstTensorView;
using core::TensorView;

Block::Block(const ModelConfig& config, const ParameterTable& table, int index)
    : attention_(config, table, index), mlp_(config, table, index) {
  const std::string name = fmt::format("block.{}.", index);
  attention_norm_ = NormLayer::find(table, name + "attention_norm");
  mlp_norm_ = NormLayer::find(table, name + "mlp_norm");
  attention_residual_ = {name + "attention.residual", table.find(name + "attention.residual_gate")};
  mlp_residual_ = {name + "mlp.residual", table.find(name + "mlp.residual_gate")};
}

void Block::forward(const Pass& pass, const BlockSlots& slots, TensorView y) const {
  if (pass.config.norm_position == NormPosition::kPre) {
    forward_pre(pass, slots, y);
  } else {
    forward_post(pass, slots, y);
  }
}

void Block::recompute(const Pass& pass, const BlockSlots& slots) const {
  if (pass.config.norm_position == NormPosition::kPre) {
    recompute_pre(pass, slots);
  } else {
    recompute_post(pass, slots);
  }
}

void Block::backward(const Pass& pass, const BlockSlots& slots, BlockGradients& gradients,
                     TensorView dstream) const {
  if (pass.config.norm_position == NormPosition::kPre) {
    backward_pre(pass, slots, gradients, dstream);
  } else {
    backward_post(pass, slots, gradients, dstream);
  }
}

void Block::forward_pre(const Pass& pass, const BlockSlots& slots, TensorView y) const {
  const TensorView x = pass.stream(slots.input);
  const TensorView middle = pass.stream(slots.middle);

  const TensorView attention_input = pass.stream(slots.attention_norm);
  const TensorView attended = branch_output(pass, slots.attention_branch);
  norm_forward(pass, attention_norm_, slots.attention_stats, x, attention_input);
  attention_.forward(pass, slots.attention, attention_input, attended);
  join(pass, attention_residual_, x, attended, middle);

  const TensorView mlp_input = pass.stream(slots.mlp_norm);
  const TensorView transformed = branch_output(pass, slots.mlp_branch);
  norm_forward(pass, mlp_norm_, slots.mlp_stats, middle, mlp_input);
  mlp_.forward(pass, slots.mlp, mlp_input, transformed);
  join(pass, mlp_residual_, middle, transformed, y);
}

void Block::recompute_pre(const Pass& pass, const BlockSlots& slots) const {
  const TensorView x = pass.stream(slots.input);
  const TensorView attention_input = pass.stream(slots.attention_norm);
  norm_forward(pass, attention_norm_, slots.attention_stats, x, attention_input);
  attention_.forward_context(pass, slots.attention, attention_input);
  if (pass.activations.plan().recompute() != Recompute::kBlock) return;

  const TensorView middle = pass.stream(slots.middle);
  const TensorView attended = branch_output(pass, slots.attention_branch);
  attention_.project_output(pass, slots.attention, attended);
  join(pass, attention_residual_, x, attended, middle);
  const TensorView mlp_input = pass.stream(slots.mlp_norm);
  norm_forward(pass, mlp_norm_, slots.mlp_stats, middle, mlp_input);
  mlp_.forward_activated(pass, slots.mlp, mlp_input);
  if (mlp_residual_.gate != kNoParameter)
    mlp_.project_output(pass, slots.mlp, pass.stream(slots.mlp_branch));
}

void Block::backward_pre(const Pass& pass, const BlockSlots& slots, BlockGradients& gradients,
                         TensorView dstream) const {
  const TensorView dinput = pass.stream(pass.gradients().inner);

  ConstTensorView dbranch =
      branch_gradient(pass, mlp_residual_, slots.mlp_branch, dstream, gradients);
  mlp_.backward(pass, slots.mlp, dbranch, pass.stream(slots.mlp_norm), gradients, dinput);
  norm_gradient(pass, mlp_norm_, slots.mlp_stats, dinput, pass.stream(slots.middle), dstream,
                gradients, dstream);

  dbranch = branch_gradient(pass, attention_residual_, slots.attention_branch, dstream, gradients);
  attention_.backward(pass, slots.attention, dbranch, pass.stream(slots.attention_norm), gradients,
                      dinput);
  norm_gradient(pass, attention_norm_, slots.attention_stats, dinput, pass.stream(slots.input),
                dstream, gradients, dstream);
}

void Block::forward_post(const Pass& pass, const BlockSlots& slots, TensorView y) const {
  const TensorView x = pass.stream(slots.input);
  const TensorView middle = pass.stream(slots.middle);

  const TensorView attention_sum = pass.stream(slots.attention_norm);
  const TensorView attended = branch_output(pass, slots.attention_branch);
  attention_.forward(pass, slots.attention, x, attended);
  join(pass, attention_residual_, x, attended, attention_sum);
  norm_forward(pass, attention_norm_, slots.attention_stats, attention_sum, middle);

  const TensorView mlp_sum = pass.stream(slots.mlp_norm);
  const TensorView transformed = branch_output(pass, slots.mlp_branch);
  mlp_.forward(pass, slots.mlp, middle, transformed);
  join(pass, mlp_residual_, middle, transformed, mlp_sum);
  norm_forward(pass, mlp_norm_, slots.mlp_stats, mlp_sum, y);
}

// The last norm's output, which nobody reads, goes where backward has nothing yet.
void Block::recompute_post(const Pass& pass, const BlockSlots& slots) const {
  if (pass.activations.plan().recompute() == Recompute::kBlock) {
    forward_post(pass, slots, pass.stream(pass.gradients().inner));
  } else {
    attention_.forward_context(pass, slots.attention, pass.stream(slots.input));
  }
}

void Block::backward_post(const Pass& pass, const BlockSlots& slots, BlockGradients& gradients,
                          TensorView dstream) const {
  const TensorView dinput = pass.stream(pass.gradients().inner);

  norm_gradient(pass, mlp_norm_, slots.mlp_stats, dstream, pass.stream(slots.mlp_norm), {},
                gradients, dstream);
  ConstTensorView dbranch =
      branch_gradient(pass, mlp_residual_, slots.mlp_branch, dstream, gradients);
  mlp_.backward(pass, slots.mlp, dbranch, pass.stream(slots.middle), gradients, dinput);
  add_in_place(pass.ops, dstream, dinput);

  norm_gradient(pass, attention_norm_, slots.attention_stats, dstream,
                pass.stream(slots.attention_norm), {}, gradients, dstream);
  dbranch = branch_gradient(pass, attention_residual_, slots.attention_branch, dstream, gradients);
  attention_.backward(pass, slots.attention, dbranch, pass.stream(slots.input), gradients, dinput);
  add_in_place(pass.ops, dstream, dinput);
}

TensorView Block::branch_output(const Pass& pass, const Slot& kept) {
  return pass.stream(kept.bytes > 0 ? kept : pass.gradients().branch);
}

void Block::join(const Pass& pass, const Residual& residual, ConstTensorView x,
                 ConstTensorView branch, TensorView y) {
  ops::residual_forward(pass.ops, x, branch, pass.parameter(residual.gate),
                        pass.dropout(residual.dropout_site, pass.batch.length), y);
}

ConstTensorView Block::branch_gradient(const Pass& pass, const Residual& residual, const Slot& kept,
                                       ConstTensorView dy, BlockGradients& gradients) {
  const ops::Dropout dropout = pass.dropout(residual.dropout_site, pass.batch.length);
  if (residual.gate == kNoParameter && !dropout.active()) return dy;
  const TensorView dbranch = pass.stream(pass.gradients().branch);
  TensorView dgate = gradients.gradient(residual.gate);
  if (residual.gate != kNoParameter && dgate.empty()) dgate = pass.unwanted_gradient(1);
  ops::residual_backward(pass.ops, dy, pass.stream(kept), pass.parameter(residual.gate), dropout,
                         dbranch, dgate);
  return dbranch;
}

void Block::norm_gradient(const Pass& pass, const NormLayer& norm, const NormSlots& stats,
                          ConstTensorView dy, ConstTensorView x, ConstTensorView add,
                          BlockGradients& gradients, TensorView dx) {
  norm_backward(pass, norm, stats, dy, x, add, dx, gradients.gradient(norm.gain),
                gradients.gradient(norm.bias));  // empty where frozen
}

}  // namespace lockstep::models
