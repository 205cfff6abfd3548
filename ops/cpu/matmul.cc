#include <omp.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/check.h"
#include "ops/cpu/block_product.h"
#include "ops/cpu/dense_bodies.h"
#include "ops/cpu/matmul_cache.h"
#include "ops/cpu/matmul_tiles.h"
#include "ops/cpu/parallel.h"
#include "ops/cpu/row_io.h"
#include "ops/cpu/scratch_sizes.h"

namespace lockstep::ops::cpu {

using core::ConstTensorView;
using core::DType;
using core::TensorView;

namespace {

std::size_t align(std::size_t bytes) {
  return (bytes + 63) / 64 * 64;
}

// A factor as it lies in memory: `outer` is its dimension that is not k.
struct Factor {
  ConstTensorView view;
  bool k_is_row = false;  // [k, outer] instead of [outer, k]

  const std::byte* at(std::int64_t outer, std::int64_t k) const {
    const std::int64_t row = k_is_row ? k : outer;
    const std::int64_t col = k_is_row ? outer : k;
    return static_cast<const std::byte*>(view.raw()) +
           static_cast<std::size_t>(row * view.row_stride() + col) * core::size_of(view.dtype());
  }
};

struct Product {
  MatmulSpec size;
  Factor a, b;
  TensorView out;
  ConstTensorView bias;

  std::byte* out_at(std::int64_t row, std::int64_t col) const {
    return static_cast<std::byte*>(out.raw()) +
           static_cast<std::size_t>(row * out.row_stride() + col) * core::size_of(out.dtype());
  }
  const std::byte* bias_at(std::int64_t col) const {
    return bias.empty() ? nullptr
                        : static_cast<const std::byte*>(bias.raw()) +
                              static_cast<std::size_t>(col) * core::size_of(bias.dtype());
  }
};

// The part of the result one thread computes at a time.
struct Tile {
  std::int64_t row, col, rows, cols;
};

Tile tile_at(const MatmulSpec& s, const MatmulTiles& tiles, std::int64_t index) {
  const std::int64_t row = index % tiles.row_tiles * tiles.tile_rows;
  const std::int64_t col = index / tiles.row_tiles * tiles.tile_cols;
  return {row, col, std::min(tiles.tile_rows, s.m - row), std::min(tiles.tile_cols, s.n - col)};
}

// Rows of a single row may lie any distance apart; oneDNN wants at least the width.
std::int64_t stride_of(const ConstTensorView& view) {
  return std::max(view.row_stride(), view.cols());
}

// The body, last row, last column and corner: the only tiles that differ in size.
template <typename F>
void for_each_kind_of_tile(const MatmulSpec& s, const MatmulTiles& tiles, F f) {
  for (const int last_row : {0, 1}) {
    for (const int last_col : {0, 1}) {
      const std::int64_t index = (last_row == 1 ? tiles.row_tiles - 1 : 0) +
                                 (last_col == 1 ? tiles.col_tiles - 1 : 0) * tiles.row_tiles;
      f(last_row, last_col, tile_at(s, tiles, index));
    }
  }
}

MatmulTiles direct_tiles(const MatmulSpec& s) {
  return cut_matmul(s.m, s.n, s.k, s.transpose_a, s.transpose_b,
                    static_cast<std::int64_t>(core::size_of(s.input)));
}

GemmShape direct_shape(const MatmulSpec& s, const Tile& tile) {
  GemmShape shape;
  shape.m = tile.rows;
  shape.n = tile.cols;
  shape.k = s.k;
  shape.stride_a = s.stride_a;
  shape.stride_b = s.stride_b;
  shape.stride_c = s.stride_out;
  shape.input = s.input;
  shape.output = s.output;
  shape.transpose_a = s.transpose_a;
  shape.transpose_b = s.transpose_b;
  shape.bias = s.bias;
  return shape;
}

std::size_t direct_scratch(const MatmulSpec& s, int threads) {
  std::size_t scratchpad = 0;
  for_each_kind_of_tile(s, direct_tiles(s), [&](int, int, const Tile& tile) {
    scratchpad = std::max(scratchpad, align(MatmulCache::scratchpad_bytes(direct_shape(s, tile))));
  });
  return scratchpad * static_cast<std::size_t>(threads);
}

// fp32, and bf16 on machines that multiply it: oneDNN on the matrices as they lie.
void matmul_direct(OpContext& context, const Product& p) {
  const MatmulTiles tiles = direct_tiles(p.size);
  const GemmKernel* kernels[2][2];
  std::size_t scratchpad = 0;  // as in direct_scratch, of kernels that are kept
  for_each_kind_of_tile(p.size, tiles, [&](int last_row, int last_col, const Tile& tile) {
    const GemmKernel& kernel = context.matmul_cache().kernel(direct_shape(p.size, tile));
    kernels[last_row][last_col] = &kernel;
    scratchpad = std::max(scratchpad, align(MatmulCache::scratchpad_bytes(kernel)));
  });
  std::byte* scratch = context.scratch(scratchpad * static_cast<std::size_t>(context.threads()));
  const SingleThreadedOneDnn single_threaded;
  parallel_chunks(context, tiles.count(), 1, [&](std::int64_t index, std::int64_t, std::int64_t) {
    const Tile tile = tile_at(p.size, tiles, index);
    const bool last_row = index % tiles.row_tiles == tiles.row_tiles - 1;
    const bool last_col = index / tiles.row_tiles == tiles.col_tiles - 1;
    GemmArguments arguments;
    arguments.a = p.a.at(tile.row, 0);
    arguments.b = p.b.at(tile.col, 0);
    arguments.bias = p.bias_at(tile.col);
    arguments.c = p.out_at(tile.row, tile.col);
    arguments.scratchpad = scratch + scratchpad * static_cast<std::size_t>(omp_get_thread_num());
    MatmulCache::execute(*kernels[last_row ? 1 : 0][last_col ? 1 : 0], arguments);
  });
}

// Widest slice of k that is converted at once.
constexpr std::int64_t kConvertedDepth = 1024;
constexpr std::int64_t kConvertedTile = 384;

// Copies part [outer, outer + width) x [k, k + depth) of a factor into packed fp32 of the same
// orientation.
void convert_part(const Factor& factor, std::int64_t outer, std::int64_t width, std::int64_t k,
                  std::int64_t depth, float* to) {
  const std::int64_t rows = factor.k_is_row ? depth : width;
  const std::int64_t cols = factor.k_is_row ? width : depth;
  const DType dtype = factor.view.dtype();
  const std::byte* from = factor.at(outer, k);
  const auto stride = static_cast<std::size_t>(factor.view.row_stride()) * core::size_of(dtype);
  for (std::int64_t r = 0; r < rows; ++r) {
    core::convert(dtype, from + static_cast<std::size_t>(r) * stride, DType::kF32, to + r * cols,
                  static_cast<std::size_t>(cols));
  }
}

// fp32 working memory of one thread for products of converted parts.
struct ConvertedScratch {
  std::size_t a_bytes, b_bytes, c_bytes, bias_bytes, scratchpad;

  std::size_t total() const { return a_bytes + b_bytes + c_bytes + bias_bytes + scratchpad; }
};

GemmShape converted_shape(const MatmulSpec& s, const Tile& tile, std::int64_t depth, bool first) {
  GemmShape shape;
  shape.m = tile.rows;
  shape.n = tile.cols;
  shape.k = depth;
  shape.stride_a = s.transpose_a ? tile.rows : depth;
  shape.stride_b = s.transpose_b ? depth : tile.cols;
  shape.stride_c = tile.cols;
  shape.transpose_a = s.transpose_a;
  shape.transpose_b = s.transpose_b;
  shape.bias = first && s.bias;
  shape.add = !first;
  return shape;
}

MatmulTiles converted_tiles(const MatmulSpec& s) {
  MatmulTiles tiles{ceil_div(s.m, ceil_div(s.m, kConvertedTile)),
                    ceil_div(s.n, ceil_div(s.n, kConvertedTile)), 0, 0};
  tiles.row_tiles = ceil_div(s.m, tiles.tile_rows);
  tiles.col_tiles = ceil_div(s.n, tiles.tile_cols);
  return tiles;
}

// scratchpad_of: the bytes that the kernel of a GemmShape needs. It is asked for every shape that
// occurs.
template <typename F>
ConvertedScratch converted_scratch(const MatmulSpec& s, const MatmulTiles& tiles, F scratchpad_of) {
  const auto floats = [](std::int64_t n) {
    return align(static_cast<std::size_t>(n) * sizeof(float));
  };
  const std::int64_t depth = std::min(s.k, kConvertedDepth);
  ConvertedScratch sizes{floats(tiles.tile_rows * depth), floats(tiles.tile_cols * depth),
                         floats(tiles.tile_rows * tiles.tile_cols), floats(tiles.tile_cols), 0};
  for_each_kind_of_tile(s, tiles, [&](int, int, const Tile& tile) {
    for (std::int64_t k = 0; k < s.k; k += kConvertedDepth) {
      const GemmShape shape = converted_shape(s, tile, std::min(kConvertedDepth, s.k - k), k == 0);
      sizes.scratchpad = std::max(sizes.scratchpad, align(scratchpad_of(shape)));
    }
  });
  return sizes;
}

// fp16, and bf16 elsewhere: tiles of both factors are widened to fp32, slice of k by slice of k,
// multiplied in fp32, and the sum is rounded once.
class ConvertedMatmul {
 public:
  // Every kernel is made here, before the parallel loop, in which the cache may only be read.
  ConvertedMatmul(OpContext& context, const Product& p)
      : context_(context),
        p_(p),
        tiles_(converted_tiles(p.size)),
        sizes_(converted_scratch(p.size, tiles_, [&](const GemmShape& shape) {
          return MatmulCache::scratchpad_bytes(context.matmul_cache().kernel(shape));
        })) {}

  void run() {
    std::byte* scratch =
        context_.scratch(sizes_.total() * static_cast<std::size_t>(context_.threads()));
    const SingleThreadedOneDnn single_threaded;
    parallel_chunks(context_, tiles_.count(), 1,
                    [&](std::int64_t index, std::int64_t, std::int64_t) {
                      const auto thread = static_cast<std::size_t>(omp_get_thread_num());
                      run_tile(tile_at(p_.size, tiles_, index), scratch + sizes_.total() * thread);
                    });
  }

 private:
  const GemmKernel& kernel_of(const Tile& tile, std::int64_t k) const {
    return context_.matmul_cache().kernel(
        converted_shape(p_.size, tile, std::min(kConvertedDepth, p_.size.k - k), k == 0));
  }

  void run_tile(const Tile& tile, std::byte* scratch) const {
    auto* a = reinterpret_cast<float*>(scratch);
    auto* b = reinterpret_cast<float*>(scratch + sizes_.a_bytes);
    auto* c = reinterpret_cast<float*>(scratch + sizes_.a_bytes + sizes_.b_bytes);
    std::byte* after_c = scratch + sizes_.a_bytes + sizes_.b_bytes + sizes_.c_bytes;
    auto* bias = reinterpret_cast<float*>(after_c);
    const DType dtype = p_.a.view.dtype();
    const auto width = static_cast<std::size_t>(tile.cols);
    if (!p_.bias.empty()) core::convert(dtype, p_.bias_at(tile.col), DType::kF32, bias, width);
    for (std::int64_t k = 0; k < p_.size.k; k += kConvertedDepth) {
      const std::int64_t depth = std::min(kConvertedDepth, p_.size.k - k);
      convert_part(p_.a, tile.row, tile.rows, k, depth, a);
      convert_part(p_.b, tile.col, tile.cols, k, depth, b);
      GemmArguments arguments{a, b, nullptr, c, after_c + sizes_.bias_bytes};
      if (k == 0 && !p_.bias.empty()) arguments.bias = bias;
      MatmulCache::execute(kernel_of(tile, k), arguments);
    }
    for (std::int64_t r = 0; r < tile.rows; ++r) {
      core::convert(DType::kF32, c + r * tile.cols, p_.out.dtype(),
                    p_.out_at(tile.row + r, tile.col), width);
    }
  }

  OpContext& context_;
  const Product& p_;
  MatmulTiles tiles_;
  ConvertedScratch sizes_;
};

constexpr std::int64_t kDoubleTile = 64;
constexpr std::int64_t kDoubleDepth = 128;

// Packs op(b)[k, k + depth) x [col, col + cols) as rows of kDoubleTile columns, padded with zeros.
void pack_double(const Factor& b, std::int64_t col, std::int64_t cols, std::int64_t k,
                 std::int64_t depth, double* to) {
  std::fill_n(to, depth * kDoubleTile, 0.0);
  const auto* from = reinterpret_cast<const double*>(b.at(col, k));
  const std::int64_t along_k = b.k_is_row ? b.view.row_stride() : 1;
  const std::int64_t along_n = b.k_is_row ? 1 : b.view.row_stride();
  for (std::int64_t i = 0; i < depth; ++i) {
    for (std::int64_t j = 0; j < cols; ++j)
      to[i * kDoubleTile + j] = from[i * along_k + j * along_n];
  }
}

constexpr std::int64_t kDoublesPerThread = kDoubleDepth * kDoubleTile + kDoubleTile * kDoubleTile;

std::size_t double_scratch(int threads) {
  return sizeof(double) * static_cast<std::size_t>(kDoublesPerThread * threads);
}

// fp64, for gradient checks.
void matmul_double(OpContext& context, const Product& p) {
  MatmulTiles tiles{kDoubleTile, kDoubleTile, ceil_div(p.size.m, kDoubleTile),
                    ceil_div(p.size.n, kDoubleTile)};
  auto* scratch = reinterpret_cast<double*>(context.scratch(double_scratch(context.threads())));
  parallel_chunks(context, tiles.count(), 1, [&](std::int64_t index, std::int64_t, std::int64_t) {
    const Tile tile = tile_at(p.size, tiles, index);
    double* b = scratch + kDoublesPerThread * omp_get_thread_num();
    double* c = b + kDoubleDepth * kDoubleTile;
    for (std::int64_t r = 0; r < tile.rows; ++r) {
      std::fill_n(c + r * kDoubleTile, kDoubleTile, 0.0);
      if (!p.bias.empty())
        std::copy_n(p.bias.data<double>() + tile.col, tile.cols, c + r * kDoubleTile);
    }
    for (std::int64_t k = 0; k < p.size.k; k += kDoubleDepth) {
      const std::int64_t depth = std::min(kDoubleDepth, p.size.k - k);
      pack_double(p.b, tile.col, tile.cols, k, depth, b);
      const auto* a = reinterpret_cast<const double*>(p.a.at(tile.row, k));
      block_product(ProductSize{tile.rows, kDoubleTile, depth},
                    p.a.k_is_row ? LeftFactor::kTransposed : LeftFactor::kAsIs,
                    Block<const double>{a, p.a.view.row_stride()},
                    Block<const double>{b, kDoubleTile}, Result::kAdd,
                    Block<double>{c, kDoubleTile});
    }
    for (std::int64_t r = 0; r < tile.rows; ++r)
      std::copy_n(c + r * kDoubleTile, tile.cols, p.out.row<double>(tile.row + r) + tile.col);
  });
}

// An empty sum: bias in every row, or zeros.
void fill_with_bias(const Product& p) {
  const auto width = static_cast<std::size_t>(p.size.n);
  for (std::int64_t r = 0; r < p.size.m; ++r) {
    if (p.bias.empty()) {
      std::memset(p.out_at(r, 0), 0, width * core::size_of(p.out.dtype()));
    } else {
      core::convert(p.bias.dtype(), p.bias.raw(), p.out.dtype(), p.out_at(r, 0), width);
    }
  }
}

bool is_direct(DType input) {
  return input == DType::kF32 || (input == DType::kBF16 && MatmulCache::native_bf16());
}

}  // namespace

std::size_t matmul_scratch(const MatmulSpec& spec, int threads) {
  if (spec.k == 0) return 0;
  if (spec.input == DType::kF64) return double_scratch(threads);
  if (is_direct(spec.input)) return direct_scratch(spec, threads);
  const auto scratchpad_of = [](const GemmShape& shape) {
    return MatmulCache::scratchpad_bytes(shape);
  };
  return converted_scratch(spec, converted_tiles(spec), scratchpad_of).total() *
         static_cast<std::size_t>(threads);
}

void matmul(OpContext& context, ConstTensorView a, Transpose transpose_a, ConstTensorView b,
            Transpose transpose_b, TensorView out, ConstTensorView bias) {
  Product p;
  p.size.m = out.rows();
  p.size.n = out.cols();
  p.size.k = transpose_a == Transpose::kYes ? a.rows() : a.cols();
  p.size.stride_a = stride_of(a);
  p.size.stride_b = stride_of(b);
  p.size.stride_out = stride_of(out);
  p.size.input = a.dtype();
  p.size.output = out.dtype();
  p.size.transpose_a = transpose_a == Transpose::kYes;
  p.size.transpose_b = transpose_b == Transpose::kYes;
  p.size.bias = !bias.empty();
  p.a = {a, transpose_a == Transpose::kYes};
  p.b = {b, transpose_b == Transpose::kNo};
  p.out = out;
  p.bias = bias;
  if (p.size.k == 0) return fill_with_bias(p);
  if (a.dtype() == DType::kF64) return matmul_double(context, p);
  if (is_direct(a.dtype())) return matmul_direct(context, p);
  ConvertedMatmul(context, p).run();
}

}  // namespace lockstep::ops::cpu
