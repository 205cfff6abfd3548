#pragma once

#include <cstdint>

#include "core/tensor.h"

// Checks of the arguments of an op, made once in x.cc before its body runs. A shape or dtype that
// does not fit is a bug of the caller (Error(kInternal)); the message names op and argument.
namespace lockstep::ops {

// view has `dtype` and is [rows, cols] once its leading dimensions are collapsed.
void check_matrix(const char* op, const char* name, const core::ConstTensorView& view,
                  core::DType dtype, std::int64_t rows, std::int64_t cols);

// view has `dtype` and `elements` elements that follow one another.
void check_vector(const char* op, const char* name, const core::ConstTensorView& view,
                  core::DType dtype, std::int64_t elements);

// The same where an empty view is allowed too.
void check_matrix_or_empty(const char* op, const char* name, const core::ConstTensorView& view,
                           core::DType dtype, std::int64_t rows, std::int64_t cols);
void check_vector_or_empty(const char* op, const char* name, const core::ConstTensorView& view,
                           core::DType dtype, std::int64_t elements);

}  // namespace lockstep::ops
