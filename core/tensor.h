#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "core/check.h"
#include "core/device.h"
#include "core/dtype.h"

namespace lockstep::core {

// Sizes of up to four dimensions, outermost first.
class Shape {
 public:
  static constexpr int kMaxRank = 4;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims);

  int rank() const { return rank_; }
  std::int64_t operator[](int i) const { return dims_[static_cast<std::size_t>(i)]; }
  std::int64_t back() const { return rank_ == 0 ? 1 : dims_[static_cast<std::size_t>(rank_ - 1)]; }
  std::int64_t elements() const;
  bool operator==(const Shape& other) const;

 private:
  std::array<std::int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

std::string to_string(const Shape& shape);  // "[2, 64, 128]"

// A view of elements somewhere in memory: never owns. All dimensions but the last collapse into
// rows; rows of `cols()` consecutive elements lie `row_stride()` elements apart (row_stride == cols
// when contiguous), so a column slice of a matrix is a view too. Copying a view copies the
// reference, not the elements.
class ConstTensorView {
 public:
  ConstTensorView() = default;
  ConstTensorView(const void* data, DType dtype, Shape shape, Device device = {})
      : ConstTensorView(data, dtype, shape, shape.back(), device) {}
  ConstTensorView(const void* data, DType dtype, Shape shape, std::int64_t row_stride,
                  Device device = {})
      : data_(const_cast<void*>(data)),
        shape_(shape),
        row_stride_(row_stride),
        dtype_(dtype),
        device_(device) {}

  const Shape& shape() const { return shape_; }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  std::int64_t elements() const { return shape_.elements(); }
  std::int64_t cols() const { return shape_.back(); }
  std::int64_t rows() const { return cols() == 0 ? 0 : elements() / cols(); }
  std::int64_t row_stride() const { return row_stride_; }
  bool contiguous() const { return row_stride_ == cols() || rows() <= 1; }
  bool empty() const { return data_ == nullptr; }  // an absent optional tensor (no bias, ...)
  std::size_t bytes() const { return static_cast<std::size_t>(elements()) * size_of(dtype_); }

  const void* raw() const { return data_; }
  template <typename T>
  const T* data() const {
    check_type(DTypeOf<T>::value);
    return static_cast<const T*>(data_);
  }
  template <typename T>
  const T* row(std::int64_t r) const {
    return data<T>() + r * row_stride_;
  }

  ConstTensorView slice_rows(std::int64_t begin,
                             std::int64_t end) const;  // as 2-D [end-begin, cols]
  ConstTensorView slice_cols(std::int64_t begin,
                             std::int64_t end) const;  // as 2-D [rows, end-begin]
  ConstTensorView reshaped(Shape shape) const;         // same elements; needs contiguous()

 protected:
  void check_type(DType wanted) const;

  void* data_ = nullptr;
  Shape shape_;
  std::int64_t row_stride_ = 0;
  DType dtype_ = DType::kF32;
  Device device_;
};

// The same with write access.
class TensorView : public ConstTensorView {
 public:
  TensorView() = default;
  TensorView(void* data, DType dtype, Shape shape, Device device = {})
      : ConstTensorView(data, dtype, shape, device) {}
  TensorView(void* data, DType dtype, Shape shape, std::int64_t row_stride, Device device = {})
      : ConstTensorView(data, dtype, shape, row_stride, device) {}

  void* raw() const { return data_; }
  template <typename T>
  T* data() const {
    check_type(DTypeOf<T>::value);
    return static_cast<T*>(data_);
  }
  template <typename T>
  T* row(std::int64_t r) const {
    return data<T>() + r * row_stride_;
  }

  TensorView slice_rows(std::int64_t begin, std::int64_t end) const;
  TensorView slice_cols(std::int64_t begin, std::int64_t end) const;
  TensorView reshaped(Shape shape) const;
};

}  // namespace lockstep::core
