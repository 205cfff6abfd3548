#include "ops/embedding.h"

#include <limits>

#include "core/error.h"
#include "ops/op_bodies.h"
#include "ops/op_checks.h"

namespace lockstep::ops {

using core::ConstTensorView;
using core::TensorView;

namespace {

void check_tokens(std::span<const std::int32_t> tokens, std::int64_t vocabulary) {
  for (std::size_t n = 0; n < tokens.size(); ++n) {
    if (tokens[n] >= 0 && tokens[n] < vocabulary) continue;
    throw core::Error(
        core::ErrorKind::kData,
        fmt::format("token id {} at position {} of the micro-batch is outside the vocabulary [0, "
                    "{}); the data was made for another tokenizer, or model.vocab is too small",
                    tokens[n], n, vocabulary));
  }
}

}  // namespace

void embedding_forward(OpContext& context, std::span<const std::int32_t> tokens,
                       std::int64_t length, ConstTensorView token_table, ConstTensorView positions,
                       ConstTensorView type_row, TensorView out) {
  constexpr const char* kOp = "embedding_forward";
  const core::DType dtype = token_table.dtype();
  const std::int64_t cols = token_table.cols();
  const OpBodies& bodies = bodies_for(context, kOp, {token_table, positions, type_row, out});
  check_matrix(kOp, "token_table", token_table, dtype, token_table.rows(), cols);
  check_matrix(kOp, "out", out, dtype, static_cast<std::int64_t>(tokens.size()), cols);
  check_vector_or_empty(kOp, "type_row", type_row, dtype, cols);
  if (!positions.empty()) {
    check_matrix(kOp, "positions", positions, dtype, positions.rows(), cols);
    LOCKSTEP_CHECK(length > 0 && length <= positions.rows(),
                   "{}: sequences of {} tokens, but {} positions", kOp, length, positions.rows());
  }
  check_tokens(tokens, token_table.rows());
  bodies.embedding_forward(context, tokens, length, token_table, positions, type_row, out);
}

void embedding_backward(OpContext& context, std::span<const std::int32_t> tokens,
                        ConstTensorView dx, std::int64_t row_begin, std::int64_t row_end,
                        ConstTensorView add, TensorView dtable) {
  constexpr const char* kOp = "embedding_backward";
  const std::int64_t rows = row_end - row_begin;
  const OpBodies& bodies = bodies_for(context, kOp, {dx, add, dtable});
  LOCKSTEP_CHECK(row_begin >= 0 && rows >= 0, "{}: rows [{}, {}) are not a range", kOp, row_begin,
                 row_end);
  LOCKSTEP_CHECK(tokens.size() <= std::numeric_limits<std::int32_t>::max(), "{}: {} tokens", kOp,
                 tokens.size());
  check_matrix(kOp, "dx", dx, dx.dtype(), static_cast<std::int64_t>(tokens.size()), dx.cols());
  check_matrix_or_empty(kOp, "add", add, core::accumulate_dtype(dx.dtype()), rows, dtable.cols());
  check_matrix(kOp, "dtable", dtable, dx.dtype(), rows, tokens.empty() ? dtable.cols() : dx.cols());
  bodies.embedding_backward(context, tokens, dx, row_begin, row_end, add, dtable);
}

void position_backward(OpContext& context, ConstTensorView dx, std::int64_t length,
                       TensorView dpositions) {
  constexpr const char* kOp = "position_backward";
  const OpBodies& bodies = bodies_for(context, kOp, {dx, dpositions});
  LOCKSTEP_CHECK(length > 0 && dx.rows() % length == 0 && length <= dpositions.rows(),
                 "{}: {} rows in sequences of {}, and {} positions", kOp, dx.rows(), length,
                 dpositions.rows());
  check_matrix(kOp, "dx", dx, dx.dtype(), dx.rows(), dx.cols());
  check_matrix(kOp, "dpositions", dpositions, dx.dtype(), dpositions.rows(), dx.cols());
  bodies.position_backward(context, dx, length, dpositions);
}

}  // namespace lockstep::ops
