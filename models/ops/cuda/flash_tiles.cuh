#pragma once

#include <cstring>

#include "models/ops/cuda/op_kernel.cuh"

// What the flash attention kernels share: tiles of 16-bit elements in shared memory, and the
// fragments of mma.sync.m16n8k16 read from them (PTX ISA, "Matrix fragments for mma.m16n8k16").
// Four warps a block; each warp has 16 rows of what the block computes.
namespace lockstep::models::ops::cuda {

inline constexpr int kFlashThreads = 128;
inline constexpr int kTileRows = 64;
inline constexpr int kWarpRows = 16;

// A matrix of rows of W elements (64 or 128) in pieces of 16 bytes. Piece c of row r lies at c xor
// (r mod 8), so that the eight rows that one ldmatrix reads fall into different banks.
template <typename T, int W>
struct Tile {
  T* data;

  __device__ T* piece(int row, int col) const {
    return data + row * W + ((col / kLane) ^ (row % 8)) * kLane;
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

// Rows [first, first + kRows) of a head into a tile, zeros beyond `length` rows and `width`
// columns. Under way until copy_async_wait.
template <int kRows, typename T, int W>
__device__ inline void load_tile(const Tile<T, W>& tile, const HeadRows<const T>& head,
                                 std::int64_t first, std::int64_t length, int width) {
  constexpr int kPieces = W / kLane;
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kPieces; i += kFlashThreads) {
    const int row = i / kPieces;
    const int col = i % kPieces * kLane;
    T* to = tile.piece(row, col);
    if (first + row < length && col < width) {
      copy_async(to, head.row(first + row) + col);
    } else {
      uint64_t* zeros = reinterpret_cast<uint64_t*>(to);
      zeros[0] = 0;
      zeros[1] = 0;
    }
  }
}

// A: rows [row, row + 16), k = columns [col, col + 16).
template <typename T, int W>
__device__ inline void load_a(unsigned (&a)[4], const Tile<T, W>& tile, int row, int col) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  load_matrices(a, tile.piece(row + lane % 16, col + lane / 16 * 8));
}

// B of two neighbouring n-tiles from a matrix whose rows are n and columns k: n = [row, row + 16),
// k = [col, col + 16).
template <typename T, int W>
__device__ inline void load_b(unsigned (&low)[2], unsigned (&high)[2], const Tile<T, W>& tile,
                              int row, int col) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  unsigned r[4];
  load_matrices(r, tile.piece(row + lane / 16 * 8 + lane % 8, col + lane / 8 % 2 * 8));
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
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  unsigned r[4];
  load_matrices_transposed(r, tile.piece(row + lane % 16, col + lane / 16 * 8));
  low[0] = r[0];
  low[1] = r[1];
  high[0] = r[2];
  high[1] = r[3];
}

template <typename T>
__device__ inline unsigned pack_pair(float first, float second) {
  const T pair[2] = {from_float<T>(first), from_float<T>(second)};
  unsigned bits;
  memcpy(&bits, pair, sizeof bits);
  return bits;
}

// Two neighbouring n-tiles of a result, 16 x 16, as A of the next product.
template <typename T>
__device__ inline void as_a(unsigned (&a)[4], const float (&left)[4], const float (&right)[4]) {
  a[0] = pack_pair<T>(left[0], left[1]);
  a[1] = pack_pair<T>(left[2], left[3]);
  a[2] = pack_pair<T>(right[0], right[1]);
  a[3] = pack_pair<T>(right[2], right[3]);
}

// result[n] += A B^T over W columns: A rows [row, row + 16) of `a`, B rows [0, 8 kTiles) of `b`.
template <int kTiles, typename T, int W>
__device__ inline void multiply_rows(float (&result)[kTiles][4], const Tile<T, W>& a, int row,
                                     const Tile<T, W>& b) {
#pragma unroll
  for (int k = 0; k < W; k += 16) {
    unsigned left[4];
    load_a(left, a, row, k);
#pragma unroll
    for (int n = 0; n < kTiles; n += 2) {
      unsigned low[2];
      unsigned high[2];
      load_b(low, high, b, 8 * n, k);
      multiply_add(result[n], left, low, T{});
      multiply_add(result[n + 1], left, high, T{});
    }
  }
}

// result += A B: A the 16 x 8 kTiles values of `weights`, B rows [0, 8 kTiles) of `b`, W columns.
template <int kTiles, typename T, int W>
__device__ inline void multiply_weights(float (&result)[W / 8][4],
                                        const float (&weights)[kTiles][4], const Tile<T, W>& b) {
#pragma unroll
  for (int k = 0; k < kTiles; k += 2) {
    unsigned left[4];
    as_a<T>(left, weights[k], weights[k + 1]);
#pragma unroll
    for (int n = 0; n < W / 8; n += 2) {
      unsigned low[2];
      unsigned high[2];
      load_b_transposed(low, high, b, 8 * k, 8 * n);
      multiply_add(result[n], left, low, T{});
      multiply_add(result[n + 1], left, high, T{});
    }
  }
}

// The warp's 16 rows of a result, times the factor of the upper (lower) eight rows, through rows
// [row, row + 16) of a tile that no other warp uses, to a head.
template <typename T, int W>
__device__ inline void store_rows(const float (&result)[W / 8][4], float upper, float lower,
                                  const Tile<T, W>& room, int row, const HeadRows<T>& head,
                                  std::int64_t first, std::int64_t length, int width) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  sync_warp();
#pragma unroll
  for (int n = 0; n < W / 8; ++n) {
    const int col = 8 * n + lane % 4 * 2;
    const unsigned top = pack_pair<T>(result[n][0] * upper, result[n][1] * upper);
    const unsigned bottom = pack_pair<T>(result[n][2] * lower, result[n][3] * lower);
    memcpy(static_cast<void*>(room.pair(row + lane / 4, col)), &top, sizeof top);
    memcpy(static_cast<void*>(room.pair(row + lane / 4 + 8, col)), &bottom, sizeof bottom);
  }
  sync_warp();
  constexpr int kPieces = W / kLane;
  for (int i = lane; i < kWarpRows * kPieces; i += kWarp) {
    const int r = i / kPieces;
    const int col = i % kPieces * kLane;
    if (first + row + r < length && col < width) {
      *reinterpret_cast<Pack<T>*>(head.row(first + row + r) + col) =
          *reinterpret_cast<const Pack<T>*>(room.piece(row + r, col));
    }
  }
}

template <int kTiles>
__device__ inline void clear(float (&result)[kTiles][4]) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      result[n][i] = 0.0F;
}

}  // namespace lockstep::models::ops::cuda
