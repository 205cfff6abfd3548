#include "ops/cuda/bodies.h"
#include "ops/cuda/op_kernel.cuh"

namespace lockstep::ops::cuda {

namespace {

constexpr int kTile = 32;          // rows, columns and depth of a tile
constexpr int kRowsPerThread = 4;  // 32 x 8 threads
constexpr unsigned kThreads = kTile * kTile / kRowsPerThread;

// A factor as it lies in memory: element (outer, k) of op(a)[M, K] or op(b)^T[N, K].
template <typename T>
struct Factor {
  const T* data;
  std::int64_t outer_stride;
  std::int64_t k_stride;

  __device__ float at(std::int64_t outer, std::int64_t k) const {
    return to_float(data[outer * outer_stride + k * k_stride]);
  }
};

struct ProductSize {
  std::int64_t m;
  std::int64_t n;
  std::int64_t k;
  unsigned col_tiles;
};

// tile[i][j] = element (outer + i, k + j), zeros outside. Threads run along the dimension that is
// consecutive in memory.
template <typename T>
__device__ void load_tile(const Factor<T>& f, std::int64_t outer, std::int64_t outers,
                          std::int64_t k, std::int64_t depth, float* tile) {
  const bool along_k = f.k_stride == 1;
  const int fast = static_cast<int>(threadIdx.x) % kTile;
  const int slow = static_cast<int>(threadIdx.x) / kTile;
  for (int s = slow; s < kTile; s += kTile / kRowsPerThread) {
    const int i = along_k ? s : fast;
    const int j = along_k ? fast : s;
    const bool inside = outer + i < outers && k + j < depth;
    tile[i * (kTile + 1) + j] = inside ? f.at(outer + i, k + j) : 0.0F;
  }
}

template <typename T, typename O>
__global__ void matmul_kernel(ProductSize size, Factor<T> a, Factor<T> b, const T* bias,
                              Rows<O> out) {
  LOCKSTEP_SHARED(float, a_tile, kTile*(kTile + 1));
  LOCKSTEP_SHARED(float, b_tile, kTile*(kTile + 1));
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x / size.col_tiles) * kTile;
  const std::int64_t col = static_cast<std::int64_t>(blockIdx.x % size.col_tiles) * kTile;
  const int j = static_cast<int>(threadIdx.x) % kTile;
  const int i = static_cast<int>(threadIdx.x) / kTile * kRowsPerThread;
  float sum[kRowsPerThread] = {};
  for (std::int64_t k = 0; k < size.k; k += kTile) {
    load_tile(a, row, size.m, k, size.k, a_tile);
    load_tile(b, col, size.n, k, size.k, b_tile);
    sync_threads();
    for (int d = 0; d < kTile; ++d) {
      const float right = b_tile[j * (kTile + 1) + d];
#pragma unroll
      for (int r = 0; r < kRowsPerThread; ++r)
        sum[r] += a_tile[(i + r) * (kTile + 1) + d] * right;
    }
    sync_threads();
  }
  if (col + j >= size.n) return;
  const float shift = bias == nullptr ? 0.0F : to_float(bias[col + j]);
#pragma unroll
  for (int r = 0; r < kRowsPerThread; ++r)
    if (row + i + r < size.m) out.row(row + i + r)[col + j] = from_float<O>(sum[r] + shift);
}

template <typename T>
Factor<T> factor_of(const ConstTensorView& view, bool k_is_row) {
  const T* data = pointer_of<const T>(view);
  return k_is_row ? Factor<T>{data, 1, view.row_stride()} : Factor<T>{data, view.row_stride(), 1};
}

}  // namespace

void matmul(OpContext& context, ConstTensorView a, Transpose transpose_a, ConstTensorView b,
            Transpose transpose_b, TensorView out, ConstTensorView bias) {
  const std::int64_t k = transpose_a == Transpose::kYes ? a.rows() : a.cols();
  const auto col_tiles = block_count(ceil_div(out.cols(), kTile));
  const ProductSize size{out.rows(), out.cols(), k, col_tiles};
  const Grid grid{block_count(ceil_div(size.m, kTile) * col_tiles), kThreads, 0};
  visit_compute(a.dtype(), [&](auto type) {
    using T = decltype(type);
    const auto run = [&](auto out_type) {
      using O = decltype(out_type);
      launch("matmul", matmul_kernel<T, O>, grid, context.stream(), size,
             factor_of<T>(a, transpose_a == Transpose::kYes),
             factor_of<T>(b, transpose_b == Transpose::kNo), pointer_of<const T>(bias),
             rows_of<O>(out));
    };
    out.dtype() == DType::kF32 ? run(float{}) : run(T{});
  });
}

}  // namespace lockstep::ops::cuda
