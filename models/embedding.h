#pragma once

#include "core/tensor.h"
#include "models/gradient_buckets.h"
#include "models/norm_layer.h"
#include "models/parameter_table.h"
#include "models/pass.h"

namespace lockstep::models {

// Tokens to the residual stream: token row + position row (learned or sinusoidal) + row 0 of the
// token types (bert), then bert's norm, then dropout.
class Embedding {
 public:
  explicit Embedding(const ParameterTable& table);

  // batch.inputs -> y: [N, C]; keeps the norm's input.
  void forward(const Pass& pass, core::TensorView y) const;

  // dstream: [N, C], gradient of y on entry, overwritten. Fills the buckets of the group. Adds the
  // gradient slot `tied` to the token table's gradient where the head is tied.
  void backward(const Pass& pass, const ParameterTable& table, GradientSink& sink,
                core::TensorView dstream) const;

 private:
  core::ConstTensorView position_rows(const Pass& pass) const;
  core::TensorView sum_output(const Pass& pass, core::TensorView y) const;
  void write_token_rows(const Pass& pass, core::ConstTensorView dsum, const ParameterPiece& piece,
                        core::TensorView out) const;
  void write_position_rows(const Pass& pass, core::ConstTensorView dsum,
                           const ParameterPiece& piece, core::TensorView out) const;
  void write_type_rows(const Pass& pass, core::ConstTensorView dsum, const ParameterPiece& piece,
                       core::TensorView out) const;

  ParameterId tokens_ = kNoParameter;
  ParameterId positions_ = kNoParameter;
  ParameterId types_ = kNoParameter;
  NormLayer norm_;
};

// The fixed table of Vaswani et al. 2017 (section 3.5), into [context, C], any floating dtype:
//   table[t][2i] = sin(t / 10000^(2i/C)),  table[t][2i+1] = cos(the same)
void fill_sinusoidal(core::TensorView table);

}  // namespace lockstep::models
