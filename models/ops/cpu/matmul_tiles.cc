#include "models/ops/cpu/matmul_tiles.h"

#include <algorithm>

#include "models/ops/cpu/parallel.h"

namespace lockstep::models::ops::cpu {

namespace {

// The size of each of `parts` equal tiles of `total`, rounded up to whole register tiles.
std::int64_t tile_size(std::int64_t total, std::int64_t parts, std::int64_t unit) {
  return std::min(total, ceil_div(ceil_div(total, parts), unit) * unit);
}

}  // namespace

MatmulTiles cut_matmul(std::int64_t m, std::int64_t n, std::int64_t /*k*/, bool /*transpose_a*/,
                       bool /*transpose_b*/) {
  MatmulTiles tiles;
  tiles.tile_rows = tile_size(m, ceil_div(m, 256), 16);
  tiles.tile_cols = tile_size(n, ceil_div(n, 512), 64);
  tiles.row_tiles = ceil_div(m, tiles.tile_rows);
  tiles.col_tiles = ceil_div(n, tiles.tile_cols);
  return tiles;
}

}  // namespace lockstep::models::ops::cpu
