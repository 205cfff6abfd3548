#pragma once

#include <cstring>
#include <type_traits>

#include "ops/cuda/op_kernel.cuh"

// What the flash attention kernels share: tiles of 16-bit elements in shared memory, and the
// fragments of mma.sync.m16n8k16 read from them (PTX ISA, "Matrix fragments for mma.m16n8k16").
//
// A block computes kTileRows rows of its result; a warp has one or two tiles of 16 of them. Two,
// where the registers hold them, because a fragment of the other operand then serves two products:
// with one, shared memory and not the tensor cores would set the pace (512 bytes for two products
// of 2048 multiplications, at 128 bytes and some 1300 multiplications a cycle).
namespace lockstep::ops::cuda {

inline constexpr int kTileRows = 128;
inline constexpr int kPartRows = 16;  // of A and of the result of one mma.sync

// Warps and threads of a block whose warps have kParts tiles of 16 rows each.
template <int kParts>
struct BlockOf {
  static constexpr int kWarpRows = kParts * kPartRows;
  static constexpr int kThreads = kTileRows / kWarpRows * kWarp;
};

// A matrix of rows of W elements (64 or 128) in pieces of 16 bytes. Piece c of row r lies at c xor
// (r mod 8), so that the eight rows that one ldmatrix reads fall into different banks.
template <typename T, int W>
struct Tile {
  T* data;

  __device__ T* piece(int row, int col) const {
    return data + row * W + ((col / kLane) ^ (row % 8)) * kLane;
  }
  // Piece (row + lane_row, col + 8 lane_piece) with row a multiple of 8 and col one of 16, so that
  // what depends on the lane is worked out once for all rows and columns of a loop.
  __device__ T* piece(int row, int lane_row, int col, int lane_piece) const {
    return data + row * W + lane_row * W + ((lane_piece ^ (lane_row % 8)) ^ (col / kLane)) * kLane;
  }
  // The two elements at (row, col), col even.
  __device__ T* pair(int row, int col) const { return piece(row, col) + col % kLane; }
};

// One head of one sequence in device memory: rows of positions.
template <typename T>
struct HeadRows {
  T* data;
  std::int64_t stride;

  __device__ T* row(std::int64_t position) const { return data + position * stride; }
};

// Rows [first, first + kRows) of a head into a tile by a block of kThreads, zeros beyond `length`
// rows and `width` columns. Under way until copy_async_wait. A thread copies the same columns of
// rows that are a multiple of 8 apart, so that its addresses differ by constants.
template <int kRows, int kThreads, typename T, int W>
__device__ inline void load_tile(const Tile<T, W>& tile, const HeadRows<const T>& head, int first,
                                 int length, int width) {
  constexpr int kPieces = W / kLane;
  constexpr int kStep = kThreads / kPieces;
  static_assert(kStep % 8 == 0 && kRows % kStep == 0);
  const int row = static_cast<int>(threadIdx.x) / kPieces;
  const int col = static_cast<int>(threadIdx.x) % kPieces * kLane;
  T* to = tile.piece(row, col);
  const T* from = head.row(first + row) + col;
  const int rows = col < width ? length - first - row : 0;
#pragma unroll
  for (int i = 0; i < kRows; i += kStep) {
    copy_async_or_zero(to + i * W, from, i < rows);
    from += kStep * head.stride;
  }
}

// A of part m of the rows from `row` on, k = columns [col, col + 16).
template <typename T, int W>
__device__ inline void load_a(unsigned (&a)[4], const Tile<T, W>& tile, int row, int col) {
  const int lane = lane_of_thread();
  load_matrices(a, tile.piece(row, lane % 16, col, lane / 16));
}

// B of two neighbouring n-tiles from a matrix whose rows are n and columns k: n = [row, row + 16),
// k = [col, col + 16).
template <typename T, int W>
__device__ inline void load_b(unsigned (&low)[2], unsigned (&high)[2], const Tile<T, W>& tile,
                              int row, int col) {
  const int lane = lane_of_thread();
  unsigned r[4];
  load_matrices(r, tile.piece(row, lane / 16 * 8 + lane % 8, col, lane / 8 % 2));
  low[0] = r[0];
  low[1] = r[1];
  high[0] = r[2];
  high[1] = r[3];
}

// B of two neighbouring n-tiles from a matrix whose rows are k and columns n: k = [row, row + 16),
// n = [col, col + 16).
template <typename T, int W>
__device__ inline void load_b_transposed(unsigned (&low)[2], unsigned (&high)[2],
                                         const Tile<T, W>& tile, int row, int col) {
  const int lane = lane_of_thread();
  unsigned r[4];
  load_matrices_transposed(r, tile.piece(row, lane % 16, col, lane / 16));
  low[0] = r[0];
  low[1] = r[1];
  high[0] = r[2];
  high[1] = r[3];
}

// The rows [row, row + 16 kParts) of a tile as A: kept in registers, or read at every use.
template <int kParts, typename T, int W>
class KeptRows {
 public:
  __device__ KeptRows(const Tile<T, W>& tile, int row) {
#pragma unroll
    for (int m = 0; m < kParts; ++m)
#pragma unroll
      for (int k = 0; k < W / 16; ++k)
        load_a(kept_[m][k], tile, row + m * kPartRows, 16 * k);
  }
  __device__ void part(unsigned (&a)[4], int m, int k) const {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      a[i] = kept_[m][k][i];
  }

 private:
  unsigned kept_[kParts][W / 16][4];
};

template <int kParts, typename T, int W>
class ReadRows {
 public:
  __device__ ReadRows(const Tile<T, W>& tile, int row) : tile_(tile), row_(row) {}
  __device__ void part(unsigned (&a)[4], int m, int k) const {
    load_a(a, tile_, row_ + m * kPartRows, 16 * k);
  }

 private:
  Tile<T, W> tile_;
  int row_;
};

template <bool kKeep, int kParts, typename T, int W>
using LeftRows = std::conditional_t<kKeep, KeptRows<kParts, T, W>, ReadRows<kParts, T, W>>;

// Two neighbouring n-tiles of a result, 16 x 16, as A of the next product.
template <typename T>
__device__ inline void as_a(unsigned (&a)[4], const float (&left)[4], const float (&right)[4]) {
  a[0] = pack_pair<T>(left[0], left[1]);
  a[1] = pack_pair<T>(left[2], left[3]);
  a[2] = pack_pair<T>(right[0], right[1]);
  a[3] = pack_pair<T>(right[2], right[3]);
}

// result += A B^T over W columns: B rows [row, row + 8 kTiles) of `b`.
template <int kParts, int kTiles, typename Left, typename T, int W>
__device__ inline void multiply_rows(float (&result)[kParts][kTiles][4], const Left& a,
                                     const Tile<T, W>& b, int row) {
#pragma unroll
  for (int k = 0; k < W / 16; ++k) {
    unsigned left[kParts][4];
#pragma unroll
    for (int m = 0; m < kParts; ++m)
      a.part(left[m], m, k);
#pragma unroll
    for (int n = 0; n < kTiles; n += 2) {
      unsigned low[2];
      unsigned high[2];
      load_b(low, high, b, row + 8 * n, 16 * k);
#pragma unroll
      for (int m = 0; m < kParts; ++m) {
        multiply_add(result[m][n], left[m], low, T{});
        multiply_add(result[m][n + 1], left[m], high, T{});
      }
    }
  }
}

// result += A B: A the rows of 8 kTiles `weights`, B rows [row, row + 8 kTiles) of `b`, W columns.
template <int kParts, int kTiles, typename T, int W>
__device__ inline void multiply_weights(float (&result)[kParts][W / 8][4],
                                        const float (&weights)[kParts][kTiles][4],
                                        const Tile<T, W>& b, int row) {
#pragma unroll
  for (int k = 0; k < kTiles; k += 2) {
    unsigned left[kParts][4];
#pragma unroll
    for (int m = 0; m < kParts; ++m)
      as_a<T>(left[m], weights[m][k], weights[m][k + 1]);
#pragma unroll
    for (int n = 0; n < W / 8; n += 2) {
      unsigned low[2];
      unsigned high[2];
      load_b_transposed(low, high, b, row + 8 * k, 8 * n);
#pragma unroll
      for (int m = 0; m < kParts; ++m) {
        multiply_add(result[m][n], left[m], low, T{});
        multiply_add(result[m][n + 1], left[m], high, T{});
      }
    }
  }
}

// What a lane holds of a result: element i of n-tile n of part m is of this row and column.
__device__ inline int row_of(int m, int i) {
  return m * kPartRows + lane_of_thread() / 4 + i / 2 * 8;
}
__device__ inline int column_of(int n, int i) {
  return 8 * n + lane_of_thread() % 4 * 2 + i % 2;
}

// Calls f(element, m, n, i) for every element that the lane holds.
template <int kParts, int kTiles, typename F>
__device__ inline void for_each_element(float (&result)[kParts][kTiles][4], F f) {
#pragma unroll
  for (int m = 0; m < kParts; ++m)
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        f(result[m][n][i], m, n, i);
}

template <int kParts, int kTiles>
__device__ inline void clear(float (&result)[kParts][kTiles][4]) {
  for_each_element(result, [](float& x, int, int, int) { x = 0.0F; });
}

// The warp's rows of a result, each times factor(m, i / 2), through rows [row, row + 16 kParts) of
// a tile that no other warp uses, to a head.
template <int kParts, typename T, int W, typename Factor>
__device__ inline void store_rows(const float (&result)[kParts][W / 8][4], Factor factor,
                                  const Tile<T, W>& room, int row, const HeadRows<T>& head,
                                  int first, int length, int width) {
  sync_warp();
#pragma unroll
  for (int m = 0; m < kParts; ++m) {
#pragma unroll
    for (int n = 0; n < W / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; i += 2) {
        const float by = factor(m, i / 2);
        const unsigned pair = pack_pair<T>(result[m][n][i] * by, result[m][n][i + 1] * by);
        memcpy(static_cast<void*>(room.pair(row + row_of(m, i), column_of(n, 0))), &pair,
               sizeof pair);
      }
    }
  }
  sync_warp();
  constexpr int kPieces = W / kLane;
  for (int p = lane_of_thread(); p < kParts * kPartRows * kPieces; p += kWarp) {
    const int r = row + p / kPieces;
    const int col = p % kPieces * kLane;
    if (first + r < length && col < width) {
      *reinterpret_cast<Pack<T>*>(head.row(first + r) + col) =
          *reinterpret_cast<const Pack<T>*>(room.piece(r, col));
    }
  }
}

}  // namespace lockstep::ops::cuda
