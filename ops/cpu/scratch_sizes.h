#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "ops/attention.h"

// What the bodies on the CPU ask OpContext::scratch for, in bytes: the bodies themselves and
// models/workspace.h call these functions. `dtype` is that of the op's floating operands.
namespace lockstep::ops::cpu {

// A product out[m, n] = op(a)[m, k] op(b)[k, n] + bias. Strides are between rows, in elements.
struct MatmulSpec {
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::int64_t stride_a = 0;
  std::int64_t stride_b = 0;
  std::int64_t stride_out = 0;
  core::DType input = core::DType::kF32;  // of a, b and bias
  core::DType output = core::DType::kF32;
  bool transpose_a = false;  // a is [k, m]
  bool transpose_b = false;  // b is [n, k]
  bool bias = false;
};

// Asks oneDNN, which describes every tile; some tens of microseconds.
std::size_t matmul_scratch(const MatmulSpec& spec, int threads);

std::size_t attention_forward_scratch(const AttentionSpec& spec, core::DType dtype, int threads);
std::size_t attention_backward_scratch(const AttentionSpec& spec, core::DType dtype, int threads);

// x: [rows, cols]
std::size_t layer_norm_forward_scratch(std::int64_t rows, std::int64_t cols, core::DType dtype);
std::size_t layer_norm_backward_scratch(std::int64_t rows, std::int64_t cols, core::DType dtype);
std::size_t rms_norm_forward_scratch(std::int64_t rows, std::int64_t cols, core::DType dtype);
std::size_t rms_norm_backward_scratch(std::int64_t rows, std::int64_t cols, std::int64_t heads,
                                      core::DType dtype);
// flat: no dropout, and every operand is contiguous.
std::size_t residual_backward_scratch(std::int64_t rows, std::int64_t cols, bool flat);
std::size_t column_sum_scratch(std::int64_t rows, std::int64_t cols, core::DType dtype);
// table_rows: row_end - row_begin
std::size_t embedding_backward_scratch(std::int64_t table_rows, std::int64_t tokens);
std::size_t cross_entropy_scratch(std::int64_t rows);
// flat: x is contiguous.
std::size_t count_nonfinite_scratch(std::int64_t rows, std::int64_t cols, bool flat);
// blocks: of kNormBlock elements, of the longest range.
std::size_t sums_of_squares_scratch(std::size_t blocks);

}  // namespace lockstep::ops::cpu
