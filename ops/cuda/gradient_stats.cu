#include <algorithm>
#include <bit>

#include "ops/cuda/bodies.h"
#include "ops/cuda/pack_walk.cuh"

namespace lockstep::ops::cuda {

namespace {

constexpr unsigned kThreads = 256;
constexpr int kPacks = 4;   // of 16 bytes, that a thread has under way at a time
constexpr int kRounds = 4;  // of a block of threads

// Elements of one round, and of one block of threads.
template <typename T>
inline constexpr std::int64_t kRoundElements = std::int64_t{kThreads} * kPacks* kPackWidth<T>;
template <typename T>
inline constexpr std::int64_t kBlockElements = kRounds* kRoundElements<T>;

// As many ranges as one launch takes, by value, each with as many blocks as its length asks for: no
// block is started to find that it has nothing to do.
struct RangeTable {
  static constexpr int kMost = 128;
  Range ranges[kMost];
  unsigned first_blocks[kMost];  // by range
  int count;
};

// Calls f(table, blocks, first) for all ranges, as many at a time as a launch takes.
template <typename F>
void for_each_table(std::span<const Range> ranges, std::int64_t block_elements, F&& f) {
  for (std::size_t first = 0; first < ranges.size(); first += RangeTable::kMost) {
    RangeTable table{};
    table.count = static_cast<int>(std::min(std::size_t{RangeTable::kMost}, ranges.size() - first));
    std::int64_t blocks = 0;
    for (int i = 0; i < table.count; ++i) {
      table.ranges[i] = ranges[first + static_cast<std::size_t>(i)];
      table.first_blocks[i] = block_count(blocks);
      blocks += ceil_div(table.ranges[i].count, block_elements);
    }
    f(table, block_count(blocks), first);
  }
}

// What the block of threads has of which range.
struct RangePart {
  int index = 0;
  std::int64_t begin;  // within the range
  std::int64_t end;

  __device__ RangePart(const RangeTable& table, std::int64_t block_elements) {
    // The last range that begins at or before this block: behind empty ones that begin with it.
    for (int step = RangeTable::kMost / 2; step > 0; step /= 2)
      if (index + step < table.count && table.first_blocks[index + step] <= blockIdx.x)
        index += step;
    begin = (blockIdx.x - table.first_blocks[index]) * block_elements;
    const std::int64_t count = table.ranges[index].count;
    end = begin + block_elements < count ? begin + block_elements : count;
  }
};

template <typename T>
__device__ bool begins_on_16_bytes(const T* x) {
  return reinterpret_cast<std::uintptr_t>(x) % 16 == 0;
}

// The packs at x + k * step, and zeros from `count` elements behind x on.
template <typename T>
__device__ void load_packs(const T* x, std::int64_t count, int step, bool aligned,
                           WidePack<T> (&packs)[kPacks]) {
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    if (aligned && k * step + kPackWidth<T> <= count) {
      packs[k] = *reinterpret_cast<const WidePack<T>*>(x + k * step);
      continue;
    }
#pragma unroll
    for (int i = 0; i < kPackWidth<T>; ++i)
      packs[k].v[i] = k * step + i < count ? x[k * step + i] : from_float<T>(0.0F);
  }
}

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

template <typename T>
__device__ void count_packs(const WidePack<T> (&packs)[kPacks], int& inf, int& nan) {
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    float v[kPackWidth<T>];
    widen(packs[k], v);
#pragma unroll
    for (int i = 0; i < kPackWidth<T>; ++i) {
      const std::uint32_t magnitude = std::bit_cast<std::uint32_t>(v[i]) & 0x7fffffffU;
      inf += magnitude == 0x7f800000U ? 1 : 0;
      nan += magnitude > 0x7f800000U ? 1 : 0;
    }
  }
}

// Finding nothing is the rule, and then nothing is written.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    count_nonfinite_kernel(RangeTable table, const T* x, NonFinite* counts) {
  const RangePart part(table, kBlockElements<T>);
  constexpr int kStep = static_cast<int>(kThreads) * kPackWidth<T>;
  const T* from = x + table.ranges[part.index].begin;
  const bool aligned = begins_on_16_bytes(from);
  int inf = 0;
  int nan = 0;
  for (std::int64_t i = part.begin + static_cast<int>(threadIdx.x) * kPackWidth<T>; i < part.end;
       i += kRoundElements<T>) {
    WidePack<T> packs[kPacks];
    load_packs(from + i, part.end - i, kStep, aligned, packs);
    count_packs<T>(packs, inf, nan);
  }
  inf = combine_lanes(inf, AddOf{});
  nan = combine_lanes(nan, AddOf{});
  if (lane_of_thread() != 0 || inf + nan == 0) return;
  add_integer(&counts[part.index].inf, inf);
  add_integer(&counts[part.index].nan, nan);
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
  std::int64_t nans;  // summands that are NaN, and inf
  std::int64_t infinities;
  std::int64_t nan_elements;  // of which they are the squares
  std::int64_t inf_elements;
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
      if (limb(i) != 0) add_integer(&to_.limbs[2 * word_ + i], limb(i));
    }
    sum_ = 0;
    pending_ = 0;
  }

  // The same for a whole warp, all of whose lanes come: sums of one magnitude, as most are, are
  // added up before they meet those of other warps in shared memory.
  __device__ void flush_warp() {
    const int word = combine_lanes(pending_ > 0 ? word_ : -1, MaximumOf{});
    if (word < 0) return;
    const bool joins = pending_ > 0 && word_ == word;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const std::int64_t sum = combine_lanes(joins ? limb(i) : std::int64_t{0}, AddOf{});
      if (lane_of_thread() == 0 && sum != 0) add_integer(&to_.limbs[2 * word + i], sum);
    }
    if (joins) {
      sum_ = 0;
      pending_ = 0;
    }
    flush();
  }

 private:
  static constexpr std::uint64_t kFraction = (std::uint64_t{1} << 52) - 1;
  static constexpr std::uint64_t kImplied = std::uint64_t{1} << 52;
  static constexpr int kRoom = 2048;  // of values below 2^116 in 128 bits

  __device__ std::int64_t limb(int i) const {
    return static_cast<std::int64_t>(static_cast<std::uint64_t>(sum_ >> 32 * i) & 0xffffffffU);
  }

  LimbSum& to_;
  unsigned __int128 sum_ = 0;
  int word_ = 0;
  int pending_ = 0;
};

constexpr int kSumLanes = 16;  // of a block of 64 elements, as on the CPU

// Lane j of 16 adds the squares of elements j, j + 16, j + 32, j + 48; the lanes are added
// pairwise, those farthest apart first: the order of the CPU, and squares of fp32 are exact in
// fp64, so the bits are the same. A thread has kPackWidth neighbouring lanes, 16 / kPackWidth
// threads have a block; it is added up on each of them.
template <typename T>
__device__ double block_sum(const WidePack<T> (&packs)[kPacks]) {
  static_assert(kPacks == kNormBlock / kSumLanes);
  constexpr int kWidth = kPackWidth<T>;
  double lanes[kWidth] = {};
#pragma unroll
  for (int k = 0; k < kPacks; ++k)
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const auto v = static_cast<double>(to_float(packs[k].v[i]));
      lanes[i] += v * v;
    }
#pragma unroll
  for (int mask = kSumLanes / kWidth / 2; mask > 0; mask /= 2)
#pragma unroll
    for (int i = 0; i < kWidth; ++i)
      lanes[i] += shuffle_xor(lanes[i], mask);
#pragma unroll
  for (int half = kWidth / 2; half > 0; half /= 2)
#pragma unroll
    for (int i = 0; i < half; ++i)
      lanes[i] += lanes[i + half];
  return lanes[0];
}

__device__ bool is_finite(double value) {
  return (std::bit_cast<std::uint64_t>(value) >> 52 & 0x7ff) != 0x7ff;
}

// Reads the packs again, so that nobody keeps them for what hardly ever happens.
template <typename T>
__device__ void add_nonfinite(const T* x, std::int64_t count, bool aligned, LimbSum& to) {
  WidePack<T> packs[kPacks];
  load_packs(x, count, kSumLanes, aligned, packs);
  int inf = 0;
  int nan = 0;
  count_packs<T>(packs, inf, nan);
  if (inf > 0) add_integer(&to.inf_elements, inf);
  if (nan > 0) add_integer(&to.nan_elements, nan);
}

// The sums of the block's part of a range, whose blocks of 64 begin in it. The squares of fp32 and
// of 16 bits are finite in fp64, and so are 64 of them: a sum that is not tells of an element.
template <typename T>
__device__ void add_part(const T* range, const RangePart& part, LimbAdder& adder, LimbSum& room) {
  constexpr int kGroup = kSumLanes / kPackWidth<T>;  // threads of a block of 64
  const bool aligned = begins_on_16_bytes(range);
  const int member = static_cast<int>(threadIdx.x) % kGroup;
  const std::int64_t mine = static_cast<int>(threadIdx.x) / kGroup * kNormBlock;
  // The whole warp goes round together, because it exchanges values.
  for (std::int64_t from = part.begin; from < part.end; from += kRoundElements<T>) {
    const std::int64_t i = from + mine + member * kPackWidth<T>;
    WidePack<T> packs[kPacks];
    load_packs(range + i, part.end - i, kSumLanes, aligned, packs);
    const double sum = block_sum<T>(packs);
    if (member == 0 && from + mine < part.end) adder.add(sum);
    if (!is_finite(sum)) add_nonfinite(range + i, part.end - i, aligned, room);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    sums_of_squares_kernel(RangeTable table, const T* x, LimbSum* sums) {
  LOCKSTEP_SHARED(LimbSum, room, 1);
  constexpr int kWords = sizeof(LimbSum) / sizeof(std::int64_t);
  auto* words = reinterpret_cast<std::int64_t*>(room);
  for (int i = static_cast<int>(threadIdx.x); i < kWords; i += kThreads)
    words[i] = 0;
  sync_threads();
  const RangePart part(table, kBlockElements<T>);
  LimbAdder adder(room[0]);
  add_part(x + table.ranges[part.index].begin, part, adder, room[0]);
  adder.flush_warp();
  sync_threads();
  auto* all = reinterpret_cast<std::int64_t*>(sums + part.index);
  for (int i = static_cast<int>(threadIdx.x); i < kWords; i += kThreads)
    if (words[i] != 0) add_integer(all + i, words[i]);
}

// Carries from limb to limb. One thread a sum.
__global__ void carry_kernel(const LimbSum* limbs, int n, SumOfSquares* sums) {
  const int index = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (index >= n) return;
  const LimbSum& from = limbs[index];
  ExactSum& to = sums[index].sum;
  std::uint64_t carry = 0;
  for (int word = 0; word < kLimbs / 2; ++word) {
    const std::uint64_t low = static_cast<std::uint64_t>(from.limbs[2 * word]) + carry;
    const std::uint64_t high = static_cast<std::uint64_t>(from.limbs[2 * word + 1]) + (low >> 32);
    to.words[word] = (low & 0xffffffffU) | high << 32;
    carry = high >> 32;
  }
  to.flags = (from.nans != 0 ? ExactSum::kNaN : 0) |
             (from.infinities != 0 ? ExactSum::kPositiveInfinity : 0);
  sums[index].nonfinite = {from.inf_elements, from.nan_elements};
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
  visit_compute(x.dtype(), [&](auto type) {
    using T = decltype(type);
    for_each_table(ranges, kBlockElements<T>,
                   [&](const RangeTable& table, unsigned blocks, std::size_t first) {
                     launch("count_nonfinite_ranges", count_nonfinite_kernel<T>,
                            Grid{blocks, kThreads, 0}, context.stream(), table,
                            pointer_of<const T>(x), counts + first);
                   });
  });
}

void sums_of_squares(OpContext& context, ConstTensorView x, std::span<const Range> ranges,
                     SumOfSquares* sums) {
  check_device_range(sums, ranges.size() * sizeof(SumOfSquares));
  auto* limbs = reinterpret_cast<LimbSum*>(context.scratch(ranges.size() * sizeof(LimbSum)));
  zero(context, limbs, ranges.size() * sizeof(LimbSum));
  visit_compute(x.dtype(), [&](auto type) {
    using T = decltype(type);
    for_each_table(ranges, kBlockElements<T>,
                   [&](const RangeTable& table, unsigned blocks, std::size_t first) {
                     launch("sums_of_squares", sums_of_squares_kernel<T>, Grid{blocks, kThreads, 0},
                            context.stream(), table, pointer_of<const T>(x), limbs + first);
                   });
  });
  const auto n = static_cast<std::int64_t>(ranges.size());
  launch("carry", carry_kernel, Grid{block_count(ceil_div(n, kThreads)), kThreads, 0},
         context.stream(), static_cast<const LimbSum*>(limbs), static_cast<int>(n), sums);
}

}  // namespace lockstep::ops::cuda
