#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "core/cuda/kernel.cuh"
#include "core/error.h"
#include "core/tensor.h"
#include "ops/cuda/carver.h"
#include "ops/op_context.h"

// What the bodies of ops on a device share: views as kernels take them, and the cut of elementwise
// work.
namespace lockstep::ops::cuda {

using namespace core::cuda;  // NOLINT: the words of a kernel
using core::ConstTensorView;
using core::DType;
using core::TensorView;

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

// A number of blocks as a grid takes it.
inline unsigned block_count(std::int64_t blocks) {
  if (blocks < 0 || blocks > 0x7fffffff) {
    throw core::Error(core::ErrorKind::kConfig,
                      fmt::format("{} blocks of work for one kernel; a GPU takes 2^31 - 1: use "
                                  "smaller micro-batches",
                                  blocks));
  }
  return static_cast<unsigned>(blocks);
}

// Calls f(T{}) with the device's type of fp32, bf16 or fp16. fp64 serves gradient checks and runs
// on the CPU only.
template <typename F>
decltype(auto) visit_compute(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kF32:
      return f(float{});
    case DType::kBF16:
      return f(BF16{});
    case DType::kF16:
      return f(F16{});
    default:
      throw core::Error(core::ErrorKind::kConfig,
                        fmt::format("ops on a GPU compute in fp32, bf16 or fp16, not in {}",
                                    core::name_of(dtype)));
  }
}

inline bool on_16_bytes(const void* p) {
  return reinterpret_cast<std::uintptr_t>(p) % 16 == 0;
}

// Bytes from the first element of a view to behind its last.
inline std::size_t extent(const ConstTensorView& view) {
  if (view.empty() || view.elements() == 0) return 0;
  const std::int64_t elements = (view.rows() - 1) * view.row_stride() + view.cols();
  return static_cast<std::size_t>(elements) * core::size_of(view.dtype());
}

// The rows of a view; `unit`: every address that kernels form is a multiple of so many elements
// from the beginning of a row (kLane, or the width of a head).
template <typename T>
Rows<T> rows_of(const ConstTensorView& view, std::int64_t unit = kLane) {
  check_device_range(view.raw(), extent(view));
  const auto size = static_cast<std::int64_t>(sizeof(T));
  const bool rows_aligned = view.rows() <= 1 || view.row_stride() * size % 16 == 0;
  return {static_cast<T*>(const_cast<void*>(view.raw())), view.row_stride(),
          on_16_bytes(view.raw()) && rows_aligned && unit * size % 16 == 0};
}

// The same for a view that is walked over as one row.
template <typename T>
Rows<T> flat_of(const ConstTensorView& view) {
  check_device_range(view.raw(), extent(view));
  return {static_cast<T*>(const_cast<void*>(view.raw())), 0, on_16_bytes(view.raw())};
}

template <typename T>
T* pointer_of(const ConstTensorView& view) {
  check_device_range(view.raw(), extent(view));
  return static_cast<T*>(const_cast<void*>(view.raw()));
}

inline bool all_contiguous(std::initializer_list<ConstTensorView> views) {
  return std::all_of(views.begin(), views.end(),
                     [](const ConstTensorView& view) { return view.contiguous(); });
}

// Elementwise work on [rows, cols] in pieces of 8 elements, a piece to a thread.
struct Walk {
  std::int64_t rows;
  std::int64_t cols;
  unsigned blocks_per_row;
  unsigned threads;
  bool flat;  // all rows of every operand follow one another and are walked over as one

  Walk(std::int64_t r, std::int64_t c, bool is_flat)
      : rows(is_flat ? 1 : r), cols(is_flat ? r * c : c), flat(is_flat) {
    const std::int64_t pieces = ceil_div(cols, kLane);
    threads = static_cast<unsigned>(std::clamp<std::int64_t>(ceil_div(pieces, 32) * 32, 32, 256));
    blocks_per_row = block_count(ceil_div(pieces, threads));
  }

  Grid grid() const { return {block_count(rows * blocks_per_row), threads, 0}; }

  template <typename T>
  Rows<T> rows_of(const ConstTensorView& view) const {
    return flat ? flat_of<T>(view) : cuda::rows_of<T>(view);
  }
};

// Where the thread's piece is. count <= 0: it has none.
struct Piece {
  std::int64_t row;
  std::int64_t col;
  std::int64_t count;

  __device__ explicit Piece(const Walk& walk)
      : row(blockIdx.x / walk.blocks_per_row),
        col((static_cast<std::int64_t>(blockIdx.x % walk.blocks_per_row) * blockDim.x +
             threadIdx.x) *
            kLane),
        count(walk.cols - col) {}
};

}  // namespace lockstep::ops::cuda
