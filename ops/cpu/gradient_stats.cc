#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <type_traits>

#include "ops/cpu/bodies.h"
#include "ops/cpu/row_sums.h"
#include "ops/cpu/scratch_sizes.h"
#include "ops/cpu/tiles.h"

namespace lockstep::ops::cpu {

using core::AccumulateT;
using core::ConstTensorView;

namespace {

// The bits of an element without its sign, and those of infinity: above it lie the NaNs.
template <typename T>
struct Bits;
template <>
struct Bits<float> {
  using type = std::uint32_t;
  static constexpr type kInfinity = 0x7f800000U;
};
template <>
struct Bits<double> {
  using type = std::uint64_t;
  static constexpr type kInfinity = 0x7ff0000000000000U;
};
template <>
struct Bits<core::BFloat16> {
  using type = std::uint16_t;
  static constexpr type kInfinity = 0x7f80U;
};
template <>
struct Bits<core::Float16> {
  using type = std::uint16_t;
  static constexpr type kInfinity = 0x7c00U;
};

// Counts in lanes as wide as the elements; kTile is far below the greatest count of 16 bits.
// bits_at(i): the bits of element i.
template <typename T, typename F>
NonFinite count_bits(std::int64_t n, F bits_at) {
  using B = typename Bits<T>::type;
  constexpr B kMagnitude = static_cast<B>(~B{0}) >> 1;
  B inf = 0;
  B nan = 0;
#pragma omp simd reduction(+ : inf, nan)
  for (std::int64_t i = 0; i < n; ++i) {
    const B magnitude = static_cast<B>(bits_at(i) & kMagnitude);
    inf = static_cast<B>(inf + (magnitude == Bits<T>::kInfinity ? B{1} : B{0}));
    nan = static_cast<B>(nan + (magnitude > Bits<T>::kInfinity ? B{1} : B{0}));
  }
  return {static_cast<std::int64_t>(inf), static_cast<std::int64_t>(nan)};
}

template <typename T>
NonFinite count_tile(const T* x, std::int64_t n) {
  using B = typename Bits<T>::type;
  if constexpr (std::is_arithmetic_v<T>) {
    return count_bits<T>(n, [=](std::int64_t i) { return std::bit_cast<B>(x[i]); });
  } else {
    // The bits are copied out first, because loops over class types do not vectorise.
    std::array<B, kTile> copied;
    std::memcpy(copied.data(), x, static_cast<std::size_t>(n) * sizeof(T));
    const B* from = copied.data();
    return count_bits<T>(n, [=](std::int64_t i) { return from[i]; });
  }
}

template <typename T>
NonFinite count(OpContext& context, const ConstTensorView& x) {
  const bool flat = x.contiguous();
  const std::int64_t chunks = tile_chunk_count(x.rows(), x.cols(), flat);
  auto* counts = reinterpret_cast<NonFinite*>(
      context.scratch(count_nonfinite_scratch(x.rows(), x.cols(), flat)));
  std::fill_n(counts, chunks, NonFinite{});
  for_each_tile(context, x.rows(), x.cols(), flat,
                [&](std::int64_t row, std::int64_t col, std::int64_t n, std::int64_t chunk) {
                  const NonFinite found = count_tile(x.row<T>(row) + col, n);
                  counts[chunk].inf += found.inf;
                  counts[chunk].nan += found.nan;
                });
  NonFinite total;
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
    total.inf += counts[chunk].inf;
    total.nan += counts[chunk].nan;
  }
  return total;
}

// 64 squares. Lane j of 16 adds elements j, j + 16, j + 32, j + 48; the lanes are added pairwise.
template <typename A>
double block_sum(const A* x) {
  constexpr std::size_t kLanes = 16;
  std::array<double, kLanes> lanes{};
  for (std::size_t i = 0; i < kNormBlock; i += kLanes) {
#pragma omp simd
    for (std::size_t j = 0; j < kLanes; ++j) {
      const auto v = static_cast<double>(x[i + j]);
      lanes[j] += v * v;
    }
  }
  for (std::size_t width = kLanes / 2; width > 0; width /= 2) {
#pragma omp simd
    for (std::size_t j = 0; j < width; ++j)
      lanes[j] += lanes[j + width];
  }
  return lanes[0];
}

template <typename T>
void block_sums(OpContext& context, const ConstTensorView& x, double* blocks) {
  using A = AccumulateT<T>;
  static_assert(kTileChunk % kNormBlock == 0 && kTile % kNormBlock == 0);
  for_each_tile(context, 1, x.elements(), true,
                [&](std::int64_t, std::int64_t begin, std::int64_t n, std::int64_t) {
                  std::array<A, kTile> tile;
                  const T* from = x.data<T>() + begin;
                  const A* values = row_values(from, tile.data(), n);
                  double* out = blocks + begin / kNormBlock;
                  const std::int64_t whole = n / kNormBlock * kNormBlock;
                  for (std::int64_t i = 0; i < whole; i += kNormBlock)
                    *out++ = block_sum(values + i);
                  if (whole == n) return;
                  // The last block is filled up with zeros, so that it goes the same way as any
                  // other.
                  std::array<A, kNormBlock> last{};
                  std::copy(values + whole, values + n, last.begin());
                  *out = block_sum(last.data());
                });
}

ConstTensorView part_of(const ConstTensorView& x, const Range& range) {
  const auto* data = static_cast<const std::byte*>(x.raw());
  return {data + static_cast<std::size_t>(range.begin) * core::size_of(x.dtype()), x.dtype(),
          core::Shape{range.count}};
}

}  // namespace

std::size_t sums_of_squares_scratch(std::size_t blocks) {
  return std::max<std::size_t>(blocks, 1) * sizeof(double);
}

std::size_t count_nonfinite_scratch(std::int64_t rows, std::int64_t cols, bool flat) {
  const std::int64_t chunks = tile_chunk_count(rows, cols, flat);
  return static_cast<std::size_t>(std::max<std::int64_t>(chunks, 1)) * sizeof(NonFinite);
}

NonFinite count_nonfinite(OpContext& context, ConstTensorView x) {
  return core::visit_floating(x.dtype(),
                              [&](auto type) { return count<decltype(type)>(context, x); });
}

void count_nonfinite_ranges(OpContext& context, ConstTensorView x, std::span<const Range> ranges,
                            NonFinite* counts) {
  for (std::size_t i = 0; i < ranges.size(); ++i)
    counts[i] = cpu::count_nonfinite(context, part_of(x, ranges[i]));
}

void sums_of_squares(OpContext& context, ConstTensorView x, std::span<const Range> ranges,
                     SumOfSquares* sums) {
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    const ConstTensorView part = part_of(x, ranges[i]);
    const auto count = static_cast<std::size_t>((ranges[i].count + kNormBlock - 1) / kNormBlock);
    auto* blocks = reinterpret_cast<double*>(context.scratch(sums_of_squares_scratch(count)));
    core::visit_floating(part.dtype(),
                         [&](auto type) { block_sums<decltype(type)>(context, part, blocks); });
    sums[i] = {};
    sums[i].sum.add_all({blocks, count});
    // No other block has an element that is not finite.
    if (sums[i].sum.flags != 0) sums[i].nonfinite = cpu::count_nonfinite(context, part);
  }
}

}  // namespace lockstep::ops::cpu
