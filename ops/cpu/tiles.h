#pragma once

#include <algorithm>
#include <cstdint>

#include "ops/cpu/parallel.h"

// Elementwise work in pieces that fit the first-level cache, so that a 16-bit operand is widened,
// used and rounded without a trip to memory.
namespace lockstep::ops::cpu {

inline constexpr std::int64_t kTile = 512;
inline constexpr std::int64_t kTileChunk = 32 * kTile;  // elements of one chunk of work

// Calls f(row, col, n, chunk), n <= kTile, for tiles that cover [rows, cols]; tiles of one chunk
// come in order. `flat`: the rows of every operand follow one another, so that the whole is one
// row (row is then 0 and col counts elements). The cut depends on the shape and on `flat` alone.
template <typename F>
void for_each_tile(const OpContext& context, std::int64_t rows, std::int64_t cols, bool flat,
                   F&& f) {
  const auto run = [&](std::int64_t row, std::int64_t begin, std::int64_t end, std::int64_t chunk) {
    for (std::int64_t col = begin; col < end; col += kTile)
      f(row, col, std::min(kTile, end - col), chunk);
  };
  if (flat) {
    parallel_chunks(context, rows * cols, kTileChunk,
                    [&](std::int64_t begin, std::int64_t end, std::int64_t chunk) {
                      run(0, begin, end, chunk);
                    });
    return;
  }
  parallel_chunks(context, rows, rows_per_chunk(cols, kTileChunk),
                  [&](std::int64_t begin, std::int64_t end, std::int64_t chunk) {
                    for (std::int64_t row = begin; row < end; ++row)
                      run(row, 0, cols, chunk);
                  });
}

// How many chunks for_each_tile makes.
inline std::int64_t tile_chunk_count(std::int64_t rows, std::int64_t cols, bool flat) {
  return flat ? chunk_count(rows * cols, kTileChunk)
              : chunk_count(rows, rows_per_chunk(cols, kTileChunk));
}

}  // namespace lockstep::ops::cpu
