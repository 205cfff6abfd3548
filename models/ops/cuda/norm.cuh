#pragma once

#include <cmath>

#include "models/ops/cuda/bodies.h"
#include "models/ops/cuda/reduce.cuh"

// LayerNorm (kCentred) and RMSNorm. Each group of `width` consecutive elements of a row is
// normalised by `lanes` threads, which keep their elements in registers: x is read once.
namespace lockstep::models::ops::cuda {

inline constexpr int kPieces = 4;              // pieces of 8 elements that a thread keeps
inline constexpr unsigned kNormThreads = 128;  // of a block, where a group needs no more
inline constexpr int kMostLanes = 256;
inline constexpr std::int64_t kMostWidth = std::int64_t{kMostLanes} * kPieces * kLane;
inline constexpr std::int64_t kMostBlocks = 256;  // of backward: each sums its part of the rows

struct NormShape {
  std::int64_t groups;
  std::int64_t heads;  // groups of a row
  std::int64_t width;  // elements of a group
  int lanes;           // threads of a group: a power of two

  NormShape(const char* op, std::int64_t rows, std::int64_t heads_of_row, std::int64_t group_width)
      : groups(rows * heads_of_row), heads(heads_of_row), width(group_width), lanes(1) {
    if (width > kMostWidth) {
      throw core::Error(core::ErrorKind::kConfig,
                        fmt::format("{}: rows of {} elements; on a GPU up to {} are normalised", op,
                                    width, kMostWidth));
    }
    // As few as hold the row, but eight where there are as many pieces, which read 128 bytes at
    // once.
    const std::int64_t pieces = ceil_div(width, kLane);
    const std::int64_t wanted =
        std::max(ceil_div(pieces, kPieces), std::min<std::int64_t>(pieces, 8));
    while (lanes < wanted)
      lanes *= 2;
  }

  unsigned threads() const { return lanes > kWarp ? static_cast<unsigned>(lanes) : kNormThreads; }
  std::int64_t groups_of_block() const { return threads() / static_cast<unsigned>(lanes); }
};

// The thread's group and its place in it.
struct NormPlace {
  std::int64_t group;
  int lane;
  bool inside;

  __device__ NormPlace(const NormShape& s, std::int64_t first)
      : group(first + threadIdx.x / static_cast<unsigned>(s.lanes)),
        lane(static_cast<int>(threadIdx.x % static_cast<unsigned>(s.lanes))),
        inside(group < s.groups) {}

  __device__ std::int64_t col(const NormShape& s, int piece) const {
    return static_cast<std::int64_t>(lane + piece * s.lanes) * kLane;
  }
  // How many elements of the group the piece holds; <= 0: none.
  __device__ std::int64_t count(const NormShape& s, int piece) const {
    return inside ? s.width - col(s, piece) : 0;
  }
  template <typename T>
  __device__ T* base(const NormShape& s, const Rows<T>& rows) const {
    const std::int64_t g = inside ? group : 0;
    return rows.row(g / s.heads) + g % s.heads * s.width;
  }
};

__device__ inline float sum_of_group(float value, const NormShape& s, float* room) {
  return s.lanes > kWarp ? combine_block(value, AddOf{}, room)
                         : combine_lanes(value, AddOf{}, s.lanes);
}

template <typename T, bool kCentred>
__global__ void __launch_bounds__(256)
    norm_forward_kernel(NormShape s, Rows<const T> x, Rows<const T> gain, Rows<const T> bias,
                        float eps, Rows<T> y, float* mean, float* rstd) {
  LOCKSTEP_SHARED(float, room, kWarp);
  const NormPlace at(
      s, static_cast<std::int64_t>(blockIdx.x) * (blockDim.x / static_cast<unsigned>(s.lanes)));
  const T* from = at.base(s, x);
  float v[kPieces][kLane];
  float sum = 0.0F;
#pragma unroll
  for (int k = 0; k < kPieces; ++k) {
    load(from + at.col(s, k), at.count(s, k), x.aligned, v[k]);
#pragma unroll
    for (int i = 0; i < kLane; ++i)
      sum += v[k][i];
  }
  const auto width = static_cast<float>(s.width);
  const float m = kCentred ? sum_of_group(sum, s, room) / width : 0.0F;
  float squares = 0.0F;
#pragma unroll
  for (int k = 0; k < kPieces; ++k)
#pragma unroll
    for (int i = 0; i < kLane; ++i)
      if (i < at.count(s, k)) squares += (v[k][i] - m) * (v[k][i] - m);
  const float r = 1.0F / sqrtf(sum_of_group(squares, s, room) / width + eps);
  T* to = at.base(s, y);
#pragma unroll
  for (int k = 0; k < kPieces; ++k) {
    const std::int64_t n = at.count(s, k);
    if (n <= 0) continue;
    float g[kLane];
    float b[kLane] = {};
    load(gain.data + at.col(s, k), n, gain.aligned, g);
    if (bias.data != nullptr) load(bias.data + at.col(s, k), n, bias.aligned, b);
#pragma unroll
    for (int i = 0; i < kLane; ++i)
      v[k][i] = (v[k][i] - m) * r * g[i] + b[i];
    store(v[k], n, y.aligned, to + at.col(s, k));
  }
  if (!at.inside || at.lane != 0) return;
  if constexpr (kCentred) mean[at.group] = m;
  rstd[at.group] = r;
}

// With u = dy * gain and h = (x - mean) * rstd: dx = rstd * (u - mean(u) - h * mean(u * h)) + add;
// RMSNorm has mean = 0 and no mean(u). Each thread keeps the sums of dy * h and dy over its columns
// of the block's groups, and they become one row of partial sums each.
template <typename T, bool kCentred>
__global__ void __launch_bounds__(256)
    norm_backward_kernel(NormShape s, Rows<const T> dy, Rows<const T> x, Rows<const T> gain,
                         const float* mean, const float* rstd, Rows<const T> add, Rows<T> dx,
                         float* dgain_slots, float* dbias_slots) {
  LOCKSTEP_SHARED(float, room, kWarp);
  const std::int64_t groups_of_block = blockDim.x / static_cast<unsigned>(s.lanes);
  const auto width = static_cast<float>(s.width);
  float dgain[kPieces][kLane] = {};
  float dbias[kPieces][kLane] = {};
  for (std::int64_t first = blockIdx.x * groups_of_block; first < s.groups;
       first += gridDim.x * groups_of_block) {
    const NormPlace at(s, first);
    const float m = kCentred && at.inside ? mean[at.group] : 0.0F;
    const float r = at.inside ? rstd[at.group] : 0.0F;
    float u[kPieces][kLane];
    float h[kPieces][kLane];
    float sum_u = 0.0F;
    float sum_uh = 0.0F;
#pragma unroll
    for (int k = 0; k < kPieces; ++k) {
      const std::int64_t n = at.count(s, k);
      float g[kLane];
      load(at.base(s, x) + at.col(s, k), n, x.aligned, h[k]);
      load(at.base(s, dy) + at.col(s, k), n, dy.aligned, u[k]);
      load(gain.data + at.col(s, k), n, gain.aligned, g);
#pragma unroll
      for (int i = 0; i < kLane; ++i) {
        h[k][i] = i < n ? (h[k][i] - m) * r : 0.0F;
        dgain[k][i] += u[k][i] * h[k][i];
        dbias[k][i] += u[k][i];
        u[k][i] *= g[i];
        sum_u += u[k][i];
        sum_uh += u[k][i] * h[k][i];
      }
    }
    const float mean_u = kCentred ? sum_of_group(sum_u, s, room) / width : 0.0F;
    const float mean_uh = sum_of_group(sum_uh, s, room) / width;
#pragma unroll
    for (int k = 0; k < kPieces; ++k) {
      const std::int64_t n = at.count(s, k);
      if (n <= 0) continue;
      float a[kLane] = {};
      if (add.data != nullptr) load(at.base(s, add) + at.col(s, k), n, add.aligned, a);
#pragma unroll
      for (int i = 0; i < kLane; ++i)
        u[k][i] = r * (u[k][i] - mean_u - h[k][i] * mean_uh) + a[i];
      store(u[k], n, dx.aligned, at.base(s, dx) + at.col(s, k));
    }
  }
  const NormPlace at(s, 0);
  const std::int64_t slot = blockIdx.x * groups_of_block + at.group;
#pragma unroll
  for (int k = 0; k < kPieces; ++k)
    for (int i = 0; i < kLane; ++i) {
      if (at.col(s, k) + i >= s.width) continue;
      dgain_slots[slot * s.width + at.col(s, k) + i] = dgain[k][i];
      if (dbias_slots != nullptr) dbias_slots[slot * s.width + at.col(s, k) + i] = dbias[k][i];
    }
}

template <bool kCentred>
void norm_forward(OpContext& context, const char* op, ConstTensorView x, ConstTensorView gain,
                  ConstTensorView bias, double eps, std::int64_t heads, TensorView y,
                  TensorView mean, TensorView rstd) {
  const NormShape s(op, x.rows(), heads, gain.elements());
  const Grid grid{block_count(ceil_div(s.groups, s.groups_of_block())), s.threads(), 0};
  visit_compute(x.dtype(), [&](auto type) {
    using T = decltype(type);
    launch(op, norm_forward_kernel<T, kCentred>, grid, context.stream(), s,
           rows_of<const T>(x, s.width), flat_of<const T>(gain), flat_of<const T>(bias),
           static_cast<float>(eps), rows_of<T>(y, s.width), pointer_of<float>(mean),
           pointer_of<float>(rstd));
  });
}

template <bool kCentred>
void norm_backward(OpContext& context, const char* op, ConstTensorView dy, ConstTensorView x,
                   ConstTensorView gain, ConstTensorView mean, ConstTensorView rstd,
                   std::int64_t heads, ConstTensorView add, TensorView dx, TensorView dgain,
                   TensorView dbias) {
  const NormShape s(op, x.rows(), heads, gain.elements());
  const std::int64_t blocks = std::min(kMostBlocks, ceil_div(s.groups, s.groups_of_block()));
  const std::int64_t slots = blocks * s.groups_of_block();
  Carver carver(context.scratch(2 * Carver::bytes<float>(slots * s.width)));
  auto* dgain_slots = carver.take<float>(slots * s.width);
  float* dbias_slots = dbias.empty() ? nullptr : carver.take<float>(slots * s.width);
  visit_compute(x.dtype(), [&](auto type) {
    using T = decltype(type);
    launch(op, norm_backward_kernel<T, kCentred>, Grid{block_count(blocks), s.threads(), 0},
           context.stream(), s, rows_of<const T>(dy, s.width), rows_of<const T>(x, s.width),
           flat_of<const T>(gain), pointer_of<const float>(mean), pointer_of<const float>(rstd),
           rows_of<const T>(add, s.width), rows_of<T>(dx, s.width), dgain_slots, dbias_slots);
    combine_slots<T>(context, dgain_slots, slots, s.width, pointer_of<T>(dgain));
    if (dbias_slots != nullptr)
      combine_slots<T>(context, dbias_slots, slots, s.width, pointer_of<T>(dbias));
  });
}

}  // namespace lockstep::models::ops::cuda
