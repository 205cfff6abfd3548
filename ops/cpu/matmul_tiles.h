#pragma once

#include <cstdint>

namespace lockstep::ops::cpu {

// How a product [m, n] is cut into tiles, the unit of work of one thread: row_tiles x col_tiles
// tiles of tile_rows x tile_cols (the last of each may be smaller). Tile i covers row tile
// i % row_tiles of column tile i / row_tiles.
struct MatmulTiles {
  std::int64_t tile_rows = 0;
  std::int64_t tile_cols = 0;
  std::int64_t row_tiles = 0;
  std::int64_t col_tiles = 0;

  std::int64_t count() const { return row_tiles * col_tiles; }
};

// The cut of a product of op(a) [m, k] and op(b) [k, n], whose elements have element_bytes: a
// function of these alone, whatever the number of threads. m, n, k > 0.
MatmulTiles cut_matmul(std::int64_t m, std::int64_t n, std::int64_t k, bool transpose_a,
                       bool transpose_b, std::int64_t element_bytes);

}  // namespace lockstep::ops::cpu
