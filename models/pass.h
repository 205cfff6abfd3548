#pragma once

#include <cstdint>
#include <string>

#include "core/tensor.h"
#include "models/activations.h"
#include "models/model_config.h"
#include "models/model_io.h"
#include "ops/dropout.h"
#include "ops/op_context.h"

namespace lockstep::models {

// What every part of the model is given during one forward or backward: the model's own things,
// the micro-batch, the parameters. Backward gets a pass equal to that of its forward.
struct Pass {
  const ModelConfig& config;
  ops::OpContext& ops;
  const Activations& activations;
  std::uint64_t seed;
  const MicroBatch& batch;
  ParameterSource& parameters;
  bool training;  // dropout is active
  // Of the first of batch.length new positions of one sequence, for a Decoder: keys and values of the
  // positions before it are in their slots already.
  std::int64_t first_position = 0;

  std::int64_t rows() const { return batch.sequences * batch.length; }  // N

  // A slot as [rows(), cols], as [rows() * per_row], or, for `Slot`s of other shapes, as asked.
  core::TensorView tokens(const Slot& slot, std::int64_t cols) const {
    return activations.view(slot, {rows(), cols});
  }
  // Rows by position, as keys and values lie: those of this pass, and with what was there before.
  core::TensorView positioned(const Slot& slot, std::int64_t cols) const {
    return all_positions(slot, cols).slice_rows(first_position, first_position + rows());
  }
  core::TensorView all_positions(const Slot& slot, std::int64_t cols) const {
    return activations.view(slot, {first_position + rows(), cols});
  }
  core::TensorView stats(const Slot& slot, std::int64_t per_row = 1) const {
    return activations.view(slot, {rows() * per_row});
  }
  core::TensorView stream(const Slot& slot) const { return tokens(slot, config.width); }
  const GradientSlots& gradients() const { return activations.plan().gradients; }

  // A parameter that may be absent (kNoParameter): then empty.
  core::ConstTensorView parameter(ParameterId id) const {
    return id == kNoParameter ? core::ConstTensorView{} : parameters.parameter(id);
  }

  // Where the gradient of a frozen parameter of a block goes when an op cannot leave it out: [n], at
  // most the width; `which` is 0 or 1, for two at once.
  core::TensorView unwanted_gradient(std::int64_t n, int which = 0) const {
    return activations.view(which == 0 ? gradients().norm_gain : gradients().norm_bias, {n});
  }

  // The dropout of a site ("block.3.mlp") on a tensor with sequence_rows rows per sequence.
  ops::Dropout dropout(const std::string& site, std::int64_t sequence_rows) const;
};

// to += from, both [N, C] of the compute type.
void add_in_place(ops::OpContext& ops, core::TensorView to, core::ConstTensorView from);

}  // namespace lockstep::models
