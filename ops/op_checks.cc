#include "ops/op_checks.h"

#include "core/error.h"

namespace lockstep::ops {

using core::ConstTensorView;
using core::DType;
using core::Error;
using core::ErrorKind;

namespace {

void check_dtype(const char* op, const char* name, const ConstTensorView& view, DType dtype) {
  if (view.dtype() == dtype) return;
  throw Error(ErrorKind::kInternal, fmt::format("{}: {} must be {}, found {}", op, name,
                                                core::name_of(dtype), core::name_of(view.dtype())));
}

}  // namespace

void check_matrix(const char* op, const char* name, const ConstTensorView& view, DType dtype,
                  std::int64_t rows, std::int64_t cols) {
  check_dtype(op, name, view, dtype);
  const bool fits = view.elements() == rows * cols && (rows * cols == 0 || view.cols() == cols);
  if (fits && (view.row_stride() >= cols || rows <= 1)) return;
  throw Error(ErrorKind::kInternal,
              fmt::format("{}: {} must be [{}, {}], found {} with row stride {}", op, name, rows,
                          cols, core::to_string(view.shape()), view.row_stride()));
}

void check_vector(const char* op, const char* name, const ConstTensorView& view, DType dtype,
                  std::int64_t elements) {
  check_dtype(op, name, view, dtype);
  if (view.elements() == elements && view.contiguous()) return;
  throw Error(ErrorKind::kInternal,
              fmt::format("{}: {} must be {} consecutive elements, found {} with row stride {}", op,
                          name, elements, core::to_string(view.shape()), view.row_stride()));
}

void check_matrix_or_empty(const char* op, const char* name, const ConstTensorView& view,
                           DType dtype, std::int64_t rows, std::int64_t cols) {
  if (!view.empty()) check_matrix(op, name, view, dtype, rows, cols);
}

void check_vector_or_empty(const char* op, const char* name, const ConstTensorView& view,
                           DType dtype, std::int64_t elements) {
  if (!view.empty()) check_vector(op, name, view, dtype, elements);
}

}  // namespace lockstep::ops
