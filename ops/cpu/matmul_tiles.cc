#include "ops/cpu/matmul_tiles.h"

#include <algorithm>

#include "ops/cpu/parallel.h"

namespace lockstep::ops::cpu {

namespace {

// Below this many multiply-adds starting a second thread costs more than it saves.
constexpr std::int64_t kWorthCutting = std::int64_t{1} << 21;

struct Parts {
  std::int64_t rows = 1;
  std::int64_t cols = 1;
};

// How many parts of at most `largest`, an even number if more than one, so that two threads end
// together.
std::int64_t even_parts(std::int64_t total, std::int64_t largest) {
  const std::int64_t parts = ceil_div(total, largest);
  return parts == 1 ? 1 : ceil_div(parts, 2) * 2;
}

// a is transposed (gradients of weights): oneDNN copies it into rows for every tile, at a cost that
// only a whole other side makes up for. So the longer side alone is cut, in parts as large as two
// threads allow.
Parts parts_of_transposed(std::int64_t m, std::int64_t n, std::int64_t k) {
  constexpr std::int64_t kMultiplyAdds = 320'000'000;
  const std::int64_t longer = std::max(m, n);
  const std::int64_t other = std::min(m, n);
  const std::int64_t largest = std::max<std::int64_t>(256, kMultiplyAdds / (other * k));
  const std::int64_t parts = std::max<std::int64_t>(2, even_parts(longer, largest));
  return m >= n ? Parts{parts, 1} : Parts{1, parts};
}

// a lies in rows: 256 rows against all of b run at the full speed of oneDNN, unless b is so large
// that packing it spills out of the cache.
Parts parts_of_plain(std::int64_t m, std::int64_t n, std::int64_t k, bool transpose_b,
                     std::int64_t element_bytes) {
  constexpr std::int64_t kRows = 256;
  constexpr std::int64_t kLargeB = std::int64_t{6} << 20;
  const bool narrow = !transpose_b && k * n * element_bytes > kLargeB;
  Parts parts{even_parts(m, kRows), ceil_div(n, narrow ? 512 : 4096)};
  if (parts.rows * parts.cols == 1) {
    if (m >= 128) {
      parts.rows = 2;
    } else {
      parts.cols = std::min<std::int64_t>(2, ceil_div(n, 64));
    }
  }
  return parts;
}

// The size of each of `parts` equal tiles of `total`, rounded up to whole register tiles.
std::int64_t tile_size(std::int64_t total, std::int64_t parts, std::int64_t unit) {
  return std::min(total, ceil_div(ceil_div(total, parts), unit) * unit);
}

}  // namespace

// Chosen by measurement on one thread, on the shapes of training (512 and 2048 tokens, widths 256
// to 3072): tiles of plain products run at 96 % or more of the speed of oneDNN on the whole
// product. Transposed ones lose up to 16 % where the result is as small as [1024, 256]; the whole
// would then be a single tile.
MatmulTiles cut_matmul(std::int64_t m, std::int64_t n, std::int64_t k, bool transpose_a,
                       bool transpose_b, std::int64_t element_bytes) {
  Parts parts;
  if (m * n * k >= kWorthCutting) {
    parts = transpose_a ? parts_of_transposed(m, n, k)
                        : parts_of_plain(m, n, k, transpose_b, element_bytes);
  }
  MatmulTiles tiles;
  tiles.tile_rows = tile_size(m, parts.rows, 16);
  tiles.tile_cols = tile_size(n, parts.cols, 64);
  tiles.row_tiles = ceil_div(m, tiles.tile_rows);
  tiles.col_tiles = ceil_div(n, tiles.tile_cols);
  return tiles;
}

}  // namespace lockstep::ops::cpu
