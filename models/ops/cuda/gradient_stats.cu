#include <algorithm>
#include <bit>

#include "models/ops/cuda/bodies.h"
#include "models/ops/cuda/op_kernel.cuh"

namespace lockstep::models::ops::cuda {

namespace {

constexpr unsigned kThreads = 256;
constexpr std::int64_t kMostBlocks = 1024;  // of threads, for one range: they walk on in strides

// As many ranges as one launch takes, by value.
struct RangeTable {
  static constexpr std::size_t kMost = 32;
  Range ranges[kMost];
};

// Calls f(table, n, first) for all ranges, as many at a time as a launch takes.
template <typename F>
void for_each_table(std::span<const Range> ranges, F&& f) {
  for (std::size_t first = 0; first < ranges.size(); first += RangeTable::kMost) {
    const std::size_t n = std::min(RangeTable::kMost, ranges.size() - first);
    RangeTable table{};
    std::copy_n(ranges.begin() + static_cast<std::ptrdiff_t>(first), n, table.ranges);
    f(table, n, first);
  }
}

std::int64_t longest_of(const RangeTable& table) {
  std::int64_t longest = 0;
  for (const Range& range : table.ranges)
    longest = std::max(longest, range.count);
  return longest;
}

// blocks of threads for each of n ranges of at most `longest` pieces of `piece` elements a thread.
struct RangeGrid {
  unsigned blocks_per_range;
  Grid grid;

  RangeGrid(std::size_t n, std::int64_t longest, std::int64_t piece)
      : blocks_per_range(static_cast<unsigned>(
            std::clamp<std::int64_t>(ceil_div(longest, piece * kThreads), 1, kMostBlocks))),
        grid{block_count(static_cast<std::int64_t>(n) * blocks_per_range), kThreads, 0} {}
};

void zero(OpContext& context, void* memory, std::size_t bytes) {
  check_device_range(memory, bytes);
  context.stream().fill(memory, 0, bytes);
}

// Elements of a piece that are inf, and NaN.
template <typename T>
__device__ void count_piece(const T* x, std::int64_t count, bool aligned, int& inf, int& nan) {
  float v[kLane];
  load(x, count, aligned, v);
#pragma unroll
  for (int i = 0; i < kLane; ++i) {
    const std::uint32_t magnitude = std::bit_cast<std::uint32_t>(v[i]) & 0x7fffffffU;
    inf += magnitude == 0x7f800000U ? 1 : 0;
    nan += magnitude > 0x7f800000U ? 1 : 0;
  }
}

// Finding nothing is the rule, and then nothing is written.
template <typename T>
__global__ void count_nonfinite_kernel(RangeTable table, unsigned blocks_per_range, Rows<const T> x,
                                       NonFinite* counts) {
  const Range range = table.ranges[blockIdx.x / blocks_per_range];
  const bool aligned = x.aligned && range.begin * static_cast<std::int64_t>(sizeof(T)) % 16 == 0;
  const std::int64_t stride = std::int64_t{blocks_per_range} * kThreads * kLane;
  int inf = 0;
  int nan = 0;
  for (std::int64_t i =
           (std::int64_t{blockIdx.x % blocks_per_range} * kThreads + threadIdx.x) * kLane;
       i < range.count; i += stride)
    count_piece(x.data + range.begin + i, range.count - i, aligned, inf, nan);
  inf = combine_lanes(inf, AddOf{});
  nan = combine_lanes(nan, AddOf{});
  if (lane_of_thread() != 0 || inf + nan == 0) return;
  NonFinite* to = counts + blockIdx.x / blocks_per_range;
  add_integer(&to->inf, inf);
  add_integer(&to->nan, nan);
}

// The same for rows that need not follow one another; one range.
template <typename T>
__global__ void count_rows_kernel(Walk walk, Rows<const T> x, NonFinite* count) {
  const Piece p(walk);
  int inf = 0;
  int nan = 0;
  if (p.count > 0) count_piece(x.row(p.row) + p.col, p.count, x.aligned, inf, nan);
  inf = combine_lanes(inf, AddOf{});
  nan = combine_lanes(nan, AddOf{});
  if (lane_of_thread() != 0 || inf + nan == 0) return;
  add_integer(&count->inf, inf);
  add_integer(&count->nan, nan);
}

// An exact sum under way: limb i is worth 2^(32 i - 1074) and holds more than its 32 bits, so that
// limbs are added up without carrying, by integer additions, whose order cannot show.
constexpr int kLimbs = 2 * static_cast<int>(ExactSum::kWords);
struct LimbSum {
  std::int64_t limbs[kLimbs];
  std::int64_t nans;
  std::int64_t infinities;
};

// Non-negative values of one thread, kept together while their exponents lie near each other.
class LimbAdder {
 public:
  __device__ explicit LimbAdder(LimbSum& to) : to_(to) {}

  __device__ void add(double value) {
    const auto bits = std::bit_cast<std::uint64_t>(value);
    const auto exponent = static_cast<int>(bits >> 52 & 0x7ff);
    if (exponent == 0x7ff) {
      add_integer((bits & kFraction) != 0 ? &to_.nans : &to_.infinities, 1);
      return;
    }
    // As ExactSum has it: a normal number has an implied bit above its fraction.
    const int position = exponent - (exponent != 0 ? 1 : 0);
    const std::uint64_t significand = (bits & kFraction) | (exponent != 0 ? kImplied : 0);
    if (significand == 0) return;
    if (position / 64 != word_ || pending_ == kRoom) flush();
    word_ = position / 64;
    sum_ += static_cast<unsigned __int128>(significand) << (position % 64);
    ++pending_;
  }

  __device__ void flush() {
    if (pending_ == 0) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const auto limb =
          static_cast<std::int64_t>(static_cast<std::uint64_t>(sum_ >> 32 * i) & 0xffffffffU);
      if (limb != 0) add_integer(&to_.limbs[2 * word_ + i], limb);
    }
    sum_ = 0;
    pending_ = 0;
  }

 private:
  static constexpr std::uint64_t kFraction = (std::uint64_t{1} << 52) - 1;
  static constexpr std::uint64_t kImplied = std::uint64_t{1} << 52;
  static constexpr int kRoom = 2048;  // of values below 2^116 in 128 bits

  LimbSum& to_;
  unsigned __int128 sum_ = 0;
  int word_ = 0;
  int pending_ = 0;
};

constexpr int kSumLanes = 16;  // of a block of 64 elements, as on the CPU

// Lane j of 16 adds the squares of elements j, j + 16, j + 32, j + 48; the lanes are added
// pairwise: the order of the CPU, and squares of fp32 are exact in fp64, so the bits are the same.
template <typename T>
__device__ double block_sum(const T* x, std::int64_t block, std::int64_t count) {
  const std::int64_t lane = threadIdx.x % kSumLanes;
  double sum = 0.0;
#pragma unroll
  for (std::int64_t k = 0; k < kNormBlock / kSumLanes; ++k) {
    const std::int64_t i = block * kNormBlock + k * kSumLanes + lane;
    const double v = i < count ? static_cast<double>(to_float(x[i])) : 0.0;
    sum += v * v;
  }
  return combine_lanes(sum, AddOf{}, kSumLanes);
}

template <typename T>
__global__ void sums_of_squares_kernel(RangeTable table, unsigned blocks_per_range, const T* x,
                                       LimbSum* sums) {
  LOCKSTEP_SHARED(LimbSum, room, 1);
  constexpr int kWords = sizeof(LimbSum) / sizeof(std::int64_t);
  auto* words = reinterpret_cast<std::int64_t*>(room);
  for (int i = static_cast<int>(threadIdx.x); i < kWords; i += kThreads)
    words[i] = 0;
  sync_threads();

  const unsigned index = blockIdx.x / blocks_per_range;
  const Range range = table.ranges[index];
  const std::int64_t blocks = (range.count + kNormBlock - 1) / kNormBlock;
  constexpr std::int64_t kGroups = kThreads / kSumLanes;
  const std::int64_t stride = std::int64_t{blocks_per_range} * kGroups;
  const std::int64_t first = std::int64_t{blockIdx.x % blocks_per_range} * kGroups;
  LimbAdder adder(room[0]);
  // The whole warp goes round together, because it exchanges values.
  for (std::int64_t from = first; from < blocks; from += stride) {
    const std::int64_t block = from + threadIdx.x / kSumLanes;
    const double sum = block_sum(x + range.begin, block, range.count);
    if (threadIdx.x % kSumLanes == 0 && block < blocks) adder.add(sum);
  }
  adder.flush();
  sync_threads();
  auto* all = reinterpret_cast<std::int64_t*>(sums + index);
  for (int i = static_cast<int>(threadIdx.x); i < kWords; i += kThreads)
    if (words[i] != 0) add_integer(all + i, words[i]);
}

// Carries from limb to limb. One thread a sum.
__global__ void carry_kernel(const LimbSum* limbs, int n, ExactSum* sums) {
  const int index = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (index >= n) return;
  const LimbSum& from = limbs[index];
  ExactSum& to = sums[index];
  std::uint64_t carry = 0;
  for (int word = 0; word < kLimbs / 2; ++word) {
    const std::uint64_t low = static_cast<std::uint64_t>(from.limbs[2 * word]) + carry;
    const std::uint64_t high = static_cast<std::uint64_t>(from.limbs[2 * word + 1]) + (low >> 32);
    to.words[word] = (low & 0xffffffffU) | high << 32;
    carry = high >> 32;
  }
  to.flags = (from.nans != 0 ? ExactSum::kNaN : 0) |
             (from.infinities != 0 ? ExactSum::kPositiveInfinity : 0);
}

}  // namespace

NonFinite count_nonfinite(OpContext& context, ConstTensorView x) {
  auto* count = reinterpret_cast<NonFinite*>(context.scratch(sizeof(NonFinite)));
  zero(context, count, sizeof(NonFinite));
  const Walk walk(x.rows(), x.cols(), x.contiguous());
  visit_compute(x.dtype(), [&](auto type) {
    using T = decltype(type);
    launch("count_nonfinite", count_rows_kernel<T>, walk.grid(), context.stream(), walk,
           walk.rows_of<const T>(x), count);
  });
  NonFinite result;
  context.stream().to_host(&result, count, sizeof(result));
  return result;
}

void count_nonfinite_ranges(OpContext& context, ConstTensorView x, std::span<const Range> ranges,
                            NonFinite* counts) {
  zero(context, counts, ranges.size() * sizeof(NonFinite));
  for_each_table(ranges, [&](const RangeTable& table, std::size_t n, std::size_t first) {
    const RangeGrid shape(n, longest_of(table), kLane);
    visit_compute(x.dtype(), [&](auto type) {
      using T = decltype(type);
      launch("count_nonfinite_ranges", count_nonfinite_kernel<T>, shape.grid, context.stream(),
             table, shape.blocks_per_range, flat_of<const T>(x), counts + first);
    });
  });
}

void sums_of_squares(OpContext& context, ConstTensorView x, std::span<const Range> ranges,
                     ExactSum* sums) {
  check_device_range(sums, ranges.size() * sizeof(ExactSum));
  auto* limbs = reinterpret_cast<LimbSum*>(context.scratch(ranges.size() * sizeof(LimbSum)));
  zero(context, limbs, ranges.size() * sizeof(LimbSum));
  for_each_table(ranges, [&](const RangeTable& table, std::size_t n, std::size_t first) {
    const RangeGrid shape(n, longest_of(table), kNormBlock / kSumLanes);
    visit_compute(x.dtype(), [&](auto type) {
      using T = decltype(type);
      launch("sums_of_squares", sums_of_squares_kernel<T>, shape.grid, context.stream(), table,
             shape.blocks_per_range, pointer_of<const T>(x), limbs + first);
    });
  });
  const auto n = static_cast<std::int64_t>(ranges.size());
  launch("carry", carry_kernel, Grid{block_count(ceil_div(n, kThreads)), kThreads, 0},
         context.stream(), static_cast<const LimbSum*>(limbs), static_cast<int>(n), sums);
}

}  // namespace lockstep::models::ops::cuda
