#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "core/memory.h"
#include "core/random.h"
#include "core/tensor.h"

// Tensors that own their memory, for tests of ops in every dtype and layout.
namespace lockstep::test {

// A matrix [rows, cols] of a floating dtype, rows `stride` elements apart. The gaps between rows
// hold a mark that gaps_intact() looks for.
class HostTensor {
 public:
  HostTensor(core::DType dtype, std::int64_t rows, std::int64_t cols, std::int64_t gap = 0)
      : dtype_(dtype),
        rows_(rows),
        cols_(cols),
        stride_(cols + gap),
        memory_(static_cast<std::size_t>(rows * stride_) * core::size_of(dtype), kMark) {}

  core::TensorView view() {
    return core::TensorView(memory_.data(), dtype_, {rows_, cols_}, stride_);
  }
  core::TensorView vector_view() {
    return core::TensorView(memory_.data(), dtype_, {rows_ * cols_});
  }

  // Normal values of the given deviation, rounded to the dtype.
  HostTensor& randomize(std::uint64_t seed, double mean = 0.0, double deviation = 1.0) {
    std::vector<float> drawn(static_cast<std::size_t>(rows_ * cols_));
    core::fill_normal(core::stream_key(seed, "test"), static_cast<float>(mean),
                      static_cast<float>(deviation), drawn.data(), drawn.size());
    return set(std::vector<double>(drawn.begin(), drawn.end()));
  }

  HostTensor& set(const std::vector<double>& values) {
    for (std::int64_t r = 0; r < rows_; ++r)
      core::convert(core::DType::kF64, values.data() + r * cols_, dtype_, row(r),
                    static_cast<std::size_t>(cols_));
    return *this;
  }

  // Row by row, exact.
  std::vector<double> values() const {
    std::vector<double> result(static_cast<std::size_t>(rows_ * cols_));
    for (std::int64_t r = 0; r < rows_; ++r)
      core::convert(dtype_, row(r), core::DType::kF64, result.data() + r * cols_,
                    static_cast<std::size_t>(cols_));
    return result;
  }

  bool gaps_intact() const {
    const std::size_t width = core::size_of(dtype_);
    for (std::int64_t r = 0; r < rows_; ++r)
      for (std::size_t b = static_cast<std::size_t>(cols_) * width;
           b < static_cast<std::size_t>(stride_) * width; ++b)
        if (row(r)[b] != kMark) return false;
    return true;
  }

  bool operator==(const HostTensor& other) const { return memory_ == other.memory_; }

 private:
  static constexpr unsigned char kMark = 0xA5;

  const unsigned char* row(std::int64_t r) const {
    return memory_.data() + static_cast<std::size_t>(r * stride_) * core::size_of(dtype_);
  }
  unsigned char* row(std::int64_t r) {
    return memory_.data() + static_cast<std::size_t>(r * stride_) * core::size_of(dtype_);
  }

  core::DType dtype_;
  std::int64_t rows_;
  std::int64_t cols_;
  std::int64_t stride_;
  std::vector<unsigned char> memory_;
};

// How far a result of order 1 that was rounded once may lie from the exact one.
inline double tolerance_of(core::DType dtype) {
  switch (dtype) {
    case core::DType::kF64:
      return 1e-12;
    case core::DType::kF32:
      return 4e-6;
    case core::DType::kF16:
      return 1e-3;
    default:
      return 8e-3;
  }
}

// Every value within `tolerance` of the expected one, relative to max(1, |expected|).
inline void expect_close(const std::vector<double>& actual, const std::vector<double>& expected,
                         double tolerance, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double bound = tolerance * std::max(1.0, std::abs(expected[i]));
    ASSERT_LE(std::abs(actual[i] - expected[i]), bound)
        << what << ", element " << i << ": " << actual[i] << " instead of " << expected[i];
  }
}

inline const std::vector<core::DType>& floating_dtypes() {
  static const std::vector<core::DType> dtypes = {core::DType::kF32, core::DType::kBF16,
                                                  core::DType::kF16, core::DType::kF64};
  return dtypes;
}

}  // namespace lockstep::test
