#pragma once

#include <array>
#include <bit>
#include <type_traits>

#include "ops/cuda/op_kernel.cuh"

// Elementwise work whose threads take kPacks pieces of 16 bytes each, so that all loads of a thread
// are under way before it computes. Beside Walk, whose threads take one piece of 8 elements.
namespace lockstep::ops::cuda {

template <typename T>
inline constexpr int kPackWidth = 16 / static_cast<int>(sizeof(T));

// As many elements as a load takes.
template <typename T>
struct alignas(16) WidePack {
  T v[kPackWidth<T>];
};

template <typename T>
struct PackWalk {
  static constexpr unsigned kThreads = 256;

  std::int64_t cols;
  unsigned blocks_per_row;
  bool flat;  // all rows of every operand follow one another and are walked over as one
  bool aligned;
  Grid grid;

  PackWalk(std::int64_t rows, std::int64_t row_cols, int packs,
           std::initializer_list<ConstTensorView> operands)
      : cols(row_cols), flat(all_contiguous(operands)) {
    if (flat) {
      cols *= rows;
      rows = 1;
    }
    blocks_per_row = block_count(ceil_div(cols, std::int64_t{kThreads} * packs * kPackWidth<T>));
    grid = {block_count(rows * blocks_per_row), kThreads, 0};
    aligned = std::all_of(operands.begin(), operands.end(), [this](const ConstTensorView& view) {
      return this->template rows_of<const T>(view).aligned;
    });
  }

  template <typename U>
  Rows<U> rows_of(const ConstTensorView& view) const {
    return flat ? flat_of<U>(view) : cuda::rows_of<U>(view);
  }
};

// The packs of the calling thread: k of kPacks begins at col + k * kStep, so that the threads of a
// warp read neighbours.
template <typename T, int kPacks>
struct PackPlace {
  static constexpr int kWidth = kPackWidth<T>;
  static constexpr int kStep = static_cast<int>(PackWalk<T>::kThreads) * kWidth;

  std::int64_t row = 0;
  std::int64_t col;
  std::int64_t count;  // elements of the row from col on
  bool whole;          // every thread of the block has all of its packs, each on 16 bytes

  __device__ explicit PackPlace(const PackWalk<T>& walk) {
    unsigned block = blockIdx.x;
    if (!walk.flat) {
      row = block / walk.blocks_per_row;
      block %= walk.blocks_per_row;
    }
    const std::int64_t begin = std::int64_t{block} * (kPacks * kStep);
    whole = walk.aligned && begin + kPacks * kStep <= walk.cols;
    col = begin + static_cast<int>(threadIdx.x) * kWidth;
    count = walk.cols - col;
  }

  __device__ void load(const Rows<const T>& from, WidePack<T> (&packs)[kPacks]) const {
    const T* p = from.row(row) + col;
    if (whole) {
#pragma unroll
      for (int k = 0; k < kPacks; ++k)
        packs[k] = *reinterpret_cast<const WidePack<T>*>(p + k * kStep);
      return;
    }
#pragma unroll
    for (int k = 0; k < kPacks; ++k)
#pragma unroll
      for (int i = 0; i < kWidth; ++i)
        packs[k].v[i] = k * kStep + i < count ? p[k * kStep + i] : from_float<T>(0.0F);
  }

  __device__ void store(const WidePack<T> (&packs)[kPacks], const Rows<T>& to) const {
    T* p = to.row(row) + col;
    if (whole) {
#pragma unroll
      for (int k = 0; k < kPacks; ++k)
        *reinterpret_cast<WidePack<T>*>(p + k * kStep) = packs[k];
      return;
    }
#pragma unroll
    for (int k = 0; k < kPacks; ++k)
#pragma unroll
      for (int i = 0; i < kWidth; ++i)
        if (k * kStep + i < count) p[k * kStep + i] = packs[k].v[i];
  }
};

template <typename T>
__device__ inline void widen(const WidePack<T>& pack, float (&v)[kPackWidth<T>]) {
#pragma unroll
  for (int i = 0; i < kPackWidth<T>; ++i)
    v[i] = to_float(pack.v[i]);
}

template <typename T>
__device__ inline WidePack<T> narrow(const float (&v)[kPackWidth<T>]) {
  std::array<unsigned, 4> words;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (std::is_same_v<T, float>)
      words[i] = std::bit_cast<unsigned>(v[i]);
    else
      words[i] = pack_pair<T>(v[2 * i], v[2 * i + 1]);
  }
  return std::bit_cast<WidePack<T>>(words);
}

}  // namespace lockstep::ops::cuda
