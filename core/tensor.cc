#include "core/tensor.h"

namespace lockstep::core {

Shape::Shape(std::initializer_list<std::int64_t> dims) {
  LOCKSTEP_CHECK_LE(dims.size(), static_cast<std::size_t>(kMaxRank), "dimensions of a shape");
  for (const std::int64_t d : dims) {
    LOCKSTEP_CHECK(d >= 0, "negative dimension {}", d);
    dims_[static_cast<std::size_t>(rank_++)] = d;
  }
}

std::int64_t Shape::elements() const {
  std::int64_t n = 1;
  for (int i = 0; i < rank_; ++i)
    n *= (*this)[i];
  return n;
}

bool Shape::operator==(const Shape& other) const {
  return rank_ == other.rank_ && dims_ == other.dims_;
}

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (int i = 0; i < shape.rank(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + "]";
}

void ConstTensorView::check_type(DType wanted) const {
  LOCKSTEP_CHECK(wanted == dtype_, "tensor of {} read as {}", name_of(dtype_), name_of(wanted));
}

ConstTensorView ConstTensorView::slice_rows(std::int64_t begin, std::int64_t end) const {
  LOCKSTEP_CHECK(0 <= begin && begin <= end && end <= rows(), "rows [{}, {}) of {}", begin, end,
                 rows());
  const auto* base = static_cast<const std::byte*>(data_);
  const auto offset = static_cast<std::size_t>(begin * row_stride_) * size_of(dtype_);
  return {base + offset, dtype_, Shape{end - begin, cols()}, row_stride_, device_};
}

ConstTensorView ConstTensorView::slice_cols(std::int64_t begin, std::int64_t end) const {
  LOCKSTEP_CHECK(0 <= begin && begin <= end && end <= cols(), "columns [{}, {}) of {}", begin, end,
                 cols());
  const auto* base = static_cast<const std::byte*>(data_);
  const auto offset = static_cast<std::size_t>(begin) * size_of(dtype_);
  return {base + offset, dtype_, Shape{rows(), end - begin}, row_stride_, device_};
}

ConstTensorView ConstTensorView::reshaped(Shape shape) const {
  LOCKSTEP_CHECK(contiguous(), "reshape of a strided view");
  LOCKSTEP_CHECK_EQ(shape.elements(), elements(), "elements of a reshaped view");
  return {data_, dtype_, shape, device_};
}

namespace {

TensorView writable(const ConstTensorView& view) {
  return {const_cast<void*>(view.raw()), view.dtype(), view.shape(), view.row_stride(),
          view.device()};
}

}  // namespace

TensorView TensorView::slice_rows(std::int64_t begin, std::int64_t end) const {
  return writable(ConstTensorView::slice_rows(begin, end));
}

TensorView TensorView::slice_cols(std::int64_t begin, std::int64_t end) const {
  return writable(ConstTensorView::slice_cols(begin, end));
}

TensorView TensorView::reshaped(Shape shape) const {
  return writable(ConstTensorView::reshaped(shape));
}

}  // namespace lockstep::core
