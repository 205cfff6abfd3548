#pragma once

#include <type_traits>

#include "ops/cuda/op_kernel.cuh"
#include "ops/cuda/packs.cuh"

// How LayerNorm and RMSNorm are cut. Each group of `width` consecutive elements of a row is
// normalised by `lanes` threads, a warp or less where a warp can hold it, that keep their packs of
// 8 elements in registers. A block takes several groups at a time and goes on by `step` groups.
namespace lockstep::ops::cuda {

inline constexpr int kMostPacks = 4;           // of a thread
inline constexpr unsigned kNormThreads = 128;  // of a block, where a group needs no more
inline constexpr int kMostLanes = 256;
inline constexpr std::int64_t kMostWidth = std::int64_t{kMostLanes} * kMostPacks * kLane;

inline constexpr std::int64_t kMostGroups = std::int64_t{1} << 30;  // a step beyond fits an int
inline constexpr int kMultiprocessors = 132;  // of an H100 or H200; others take what comes
// Blocks of kNormThreads that an SM should hold at once, so that enough bytes are under way: as
// many as the registers of backward allow, which keeps two sums for each column.
constexpr int backward_blocks(int packs, std::size_t element) {
  constexpr int kOf2Bytes[] = {7, 4, 3, 2};
  constexpr int kOf4Bytes[] = {5, 3, 2, 2};
  return (element == 2 ? kOf2Bytes : kOf4Bytes)[packs - 1];
}
constexpr int forward_blocks(int packs, std::size_t element) {
  constexpr int kOf2Bytes[] = {7, 6, 5, 4};
  constexpr int kOf4Bytes[] = {7, 5, 3, 2};
  return (element == 2 ? kOf2Bytes : kOf4Bytes)[packs - 1];
}

struct NormShape {
  int groups = 0;
  int heads = 1;  // groups of a row
  int width = 0;  // elements of a group
  int lanes = 1;  // threads of a group: a power of two
  int packs = 1;  // of a thread
  int blocks = 0;
  int step = 0;  // from a thread's group to its next one, also in rows and heads:
  int row_step = 0;
  int head_step = 0;

  NormShape(const char* op, std::int64_t rows, std::int64_t heads_of_row,
            std::int64_t group_width) {
    if (group_width > kMostWidth || rows * heads_of_row > kMostGroups) {
      throw core::Error(
          core::ErrorKind::kConfig,
          fmt::format("{}: {} groups of {} elements; on a GPU up to {} groups of up to "
                      "{} are normalised",
                      op, rows * heads_of_row, group_width, kMostGroups, kMostWidth));
    }
    groups = static_cast<int>(rows * heads_of_row);
    heads = static_cast<int>(heads_of_row);
    width = static_cast<int>(group_width);
    // As few as hold the row, but eight where there are as many packs, which read 128 bytes at
    // once.
    const std::int64_t wanted_packs = ceil_div(group_width, kLane);
    const std::int64_t wanted =
        std::max(ceil_div(wanted_packs, kMostPacks), std::min<std::int64_t>(wanted_packs, 8));
    while (lanes < wanted)
      lanes *= 2;
    packs = lanes > kWarp ? kMostPacks : static_cast<int>(ceil_div(wanted_packs, lanes));
  }

  unsigned threads() const { return lanes > kWarp ? static_cast<unsigned>(lanes) : kNormThreads; }

  // At most so many blocks of kNormThreads, or what has as many threads. The number depends on
  // nothing else, for it decides the order in which backward sums.
  void cut(int most_blocks) {
    const int at_once = static_cast<int>(threads()) / lanes;
    blocks = std::min(most_blocks * static_cast<int>(kNormThreads) / static_cast<int>(threads()),
                      static_cast<int>(ceil_div(groups, at_once)));
    step = blocks * at_once;
    row_step = step / heads;
    head_step = step % heads;
  }
  Grid grid() const { return {block_count(blocks), threads(), 0}; }
};

// A thread's columns, the same in all its groups, and the group where it is.
struct NormPlace {
  int group;
  int row;
  int head;
  int lane;

  __device__ explicit NormPlace(const NormShape& s) {
    const auto lanes = static_cast<unsigned>(s.lanes);
    group = first_of_block(s) + static_cast<int>(threadIdx.x / lanes);
    row = s.heads == 1 ? group : group / s.heads;
    head = group - row * s.heads;
    lane = static_cast<int>(threadIdx.x % lanes);
  }

  // Of the block's groups the first; its other threads count with it.
  __device__ static int first_of_block(const NormShape& s) {
    return static_cast<int>(blockIdx.x * (blockDim.x / static_cast<unsigned>(s.lanes)));
  }
  __device__ bool inside(const NormShape& s) const { return group < s.groups; }
  __device__ int col(const NormShape& s, int pack) const { return (lane + pack * s.lanes) * kLane; }
  // How many elements of the group the pack and those behind it hold; <= 0: none.
  __device__ int count(const NormShape& s, int pack) const {
    return inside(s) ? s.width - col(s, pack) : 0;
  }
  template <typename T>
  __device__ T* base(const NormShape& s, const Rows<T>& rows) const {
    return rows.row(row) + static_cast<std::int64_t>(head) * s.width;
  }
  __device__ void advance(const NormShape& s) {
    group += s.step;
    row += s.row_step;
    head += s.head_step;
    if (head < s.heads) return;
    head -= s.heads;
    ++row;
  }
};

// A thread's part of a group.
template <typename T, bool kWhole, int kPacks>
struct GroupPacks {
  Raw<T> packs[kPacks];

  // Zeros where the place is behind the last group.
  __device__ void fetch_group(const NormShape& s, const NormPlace& at, const Rows<const T>& rows) {
    const T* from = at.base(s, rows);
#pragma unroll
    for (int k = 0; k < kPacks; ++k)
      packs[k] = fetch<kWhole>(from + at.col(s, k), at.count(s, k));
  }
  // What all groups share; zeros where it is absent.
  __device__ void fetch_shared(const NormShape& s, const NormPlace& at, const T* values) {
#pragma unroll
    for (int k = 0; k < kPacks; ++k)
      packs[k] =
          fetch<kWhole>(values + at.col(s, k), values == nullptr ? 0 : s.width - at.col(s, k));
  }
  __device__ void renew() {
#pragma unroll
    for (int k = 0; k < kPacks; ++k)
      packs[k].renew();
  }
};

// The sums of each value over the threads of each group; `room`: kValues * kWarp. All threads of
// the block must come.
template <int kPacks, int kValues>
__device__ inline void sum_group(const NormShape& s, float (&values)[kValues], float* room) {
  const int lanes = s.lanes < kWarp ? s.lanes : kWarp;
  for (int offset = lanes / 2; offset > 0; offset /= 2)
#pragma unroll
    for (int i = 0; i < kValues; ++i)
      values[i] += shuffle_xor(values[i], offset);
  if constexpr (kPacks == kMostPacks) {
    if (s.lanes <= kWarp) return;
    sync_threads();
#pragma unroll
    for (int i = 0; i < kValues; ++i)
      if (lane_of_thread() == 0) room[i * kWarp + warp_of_thread()] = values[i];
    sync_threads();
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      values[i] = room[i * kWarp];
      for (int w = 1; w < s.lanes / kWarp; ++w)
        values[i] += room[i * kWarp + w];
    }
  }
}

// Calls f(whole, packs), both as types: whole groups of 8 elements that lie on 16 bytes, by the
// number of packs; whatever is not so element by element.
template <typename F>
void visit_packs(const NormShape& s, bool aligned, F&& f) {
  using std::integral_constant;
  if (!aligned || s.width % kLane != 0)
    return f(std::false_type{}, integral_constant<int, kMostPacks>{});
  switch (s.packs) {
    case 1:
      return f(std::true_type{}, integral_constant<int, 1>{});
    case 2:
      return f(std::true_type{}, integral_constant<int, 2>{});
    case 3:
      return f(std::true_type{}, integral_constant<int, 3>{});
    default:
      return f(std::true_type{}, integral_constant<int, kMostPacks>{});
  }
}

}  // namespace lockstep::ops::cuda
