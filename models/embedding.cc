#include "models/embedding.h"

#include <cmath>

#include "ops/dropout.h"
#include "ops/embedding.h"
#include "ops/reduce.h"
#include "ops/transfer.h"

namespace lockstep::models {

using core::ConstTensorView;
using core::TensorView;

namespace {

constexpr const char* kDropoutSite = "embeddings";

}  // namespace

Embedding::Embedding(const ParameterTable& table)
    : tokens_(table.find("embeddings.token.weight")),
      positions_(table.find("embeddings.position.weight")),
      types_(table.find("embeddings.token_type.weight")),
      norm_(NormLayer::find(table, "embeddings.norm")) {}

ConstTensorView Embedding::position_rows(const Pass& pass) const {
  const ConstTensorView rows =
      positions_ != kNoParameter
          ? pass.parameter(positions_)
          : pass.activations.view(pass.activations.plan().positions.sinusoidal,
                                  {pass.config.context, pass.config.width});
  const bool whole = pass.first_position == 0 || rows.empty();  // empty: positions enter by rope
  return whole ? rows : rows.slice_rows(pass.first_position, pass.config.context);
}

TensorView Embedding::sum_output(const Pass& pass, TensorView y) const {
  return pass.config.embedding_norm() ? pass.stream(pass.activations.plan().embedding.sum) : y;
}

void Embedding::forward(const Pass& pass, TensorView y) const {
  ConstTensorView type_row;
  if (types_ != kNoParameter)
    type_row = pass.parameter(types_).slice_rows(0, 1).reshaped({pass.config.width});
  const TensorView sum = sum_output(pass, y);
  ops::embedding_forward(pass.ops, pass.batch.inputs, pass.batch.length, pass.parameter(tokens_),
                         position_rows(pass), type_row, sum);
  if (pass.config.embedding_norm())
    norm_forward(pass, norm_, pass.activations.plan().embedding.norm, sum, y);
  const ops::Dropout dropout = pass.dropout(kDropoutSite, pass.batch.length);
  if (dropout.active()) ops::dropout(pass.ops, y, dropout, y);
}

void Embedding::backward(const Pass& pass, const ParameterTable& table, GradientSink& sink,
                         TensorView dstream) const {
  const core::Shape row{pass.config.width};
  const TensorView dgain = pass.activations.view(pass.gradients().norm_gain, row);
  const TensorView dbias = norm_.bias == kNoParameter
                               ? TensorView{}
                               : pass.activations.view(pass.gradients().norm_bias, row);
  const ops::Dropout dropout = pass.dropout(kDropoutSite, pass.batch.length);
  if (dropout.active()) ops::dropout(pass.ops, dstream, dropout, dstream);
  if (pass.config.embedding_norm()) {
    const EmbeddingSlots& slots = pass.activations.plan().embedding;
    norm_backward(pass, norm_, slots.norm, dstream, pass.stream(slots.sum), {}, dstream, dgain,
                  dbias);
  }
  write_group(sink, table, 0, [&](const ParameterPiece& piece, TensorView out) {
    if (piece.parameter == tokens_) {
      write_token_rows(pass, dstream, piece, out);
    } else if (piece.parameter == positions_) {
      write_position_rows(pass, dstream, piece, out);
    } else if (piece.parameter == types_) {
      write_type_rows(pass, dstream, piece, out);
    } else {
      const bool gain = piece.parameter == norm_.gain;
      LOCKSTEP_CHECK(gain || piece.parameter == norm_.bias, "{} is not an embedding",
                     table[piece.parameter].name);
      ops::copy(pass.ops, gain ? dgain : dbias, out);
    }
  });
}

void Embedding::write_token_rows(const Pass& pass, ConstTensorView dsum,
                                 const ParameterPiece& piece, TensorView out) const {
  ConstTensorView tied =
      pass.activations.view(pass.gradients().tied, {pass.config.vocab, pass.config.width});
  if (!tied.empty()) tied = tied.slice_rows(piece.row_begin, piece.row_end);
  ops::embedding_backward(pass.ops, pass.batch.inputs, dsum, piece.row_begin, piece.row_end, tied,
                          out);
}

void Embedding::write_position_rows(const Pass& pass, ConstTensorView dsum,
                                    const ParameterPiece& piece, TensorView out) const {
  if (piece.row_end - piece.row_begin == pass.config.context) {
    ops::position_backward(pass.ops, dsum, pass.batch.length, out);
    return;
  }
  const TensorView whole =
      pass.activations.view(pass.gradients().inner, {pass.config.context, pass.config.width});
  ops::position_backward(pass.ops, dsum, pass.batch.length, whole);
  ops::copy(pass.ops, whole.slice_rows(piece.row_begin, piece.row_end), out);
}

// Every token is of type 0, so only row 0 has a gradient.
void Embedding::write_type_rows(const Pass& pass, ConstTensorView dsum, const ParameterPiece& piece,
                                TensorView out) const {
  ops::set_zero(pass.ops, out);
  if (piece.row_begin > 0) return;
  ops::column_sum(pass.ops, dsum, out.slice_rows(0, 1).reshaped({pass.config.width}));
}

void fill_sinusoidal(TensorView table) {
  core::visit_floating(table.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const std::int64_t width = table.cols();
    for (std::int64_t t = 0; t < table.rows(); ++t) {
      for (std::int64_t c = 0; c < width; ++c) {
        const double exponent = static_cast<double>(c - c % 2) / static_cast<double>(width);
        const double angle = static_cast<double>(t) / std::pow(10000.0, exponent);
        const double value = c % 2 == 0 ? std::sin(angle) : std::cos(angle);
        table.row<T>(t)[c] = static_cast<T>(static_cast<core::AccumulateT<T>>(value));
      }
    }
  });
}

}  // namespace lockstep::models
