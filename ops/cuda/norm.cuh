#pragma once

#include <cmath>
#include <type_traits>

#include "ops/cuda/bodies.h"
#include "ops/cuda/norm_shape.cuh"
#include "ops/cuda/reduce.cuh"

// LayerNorm (kCentred) and RMSNorm. A thread asks for its part of the next group before it sums
// over the present one, so that the memory is never idle.
namespace lockstep::ops::cuda {

// Threads of a block: a group of more than a warp has as many as it needs and keeps most packs.
constexpr int norm_threads(int packs) {
  return packs == kMostPacks ? kMostLanes : static_cast<int>(kNormThreads);
}
constexpr int norm_blocks(int packs, int blocks) {
  return packs == kMostPacks ? blocks / 2 : blocks;
}

template <typename T>
struct NormForward {
  Rows<const T> x;
  const T* gain;
  const T* bias;
  float eps;
  Rows<T> y;
  float* mean;
  float* rstd;
};

// A thread's part of a group in fp32.
template <int kPacks>
using GroupValues = float[kPacks][kLane];

template <bool kWhole, int kPacks>
__device__ inline float centred_squares(const NormShape& s, const NormPlace& at,
                                        const GroupValues<kPacks>& x, float mean) {
  float squares = 0.0F;
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const int n = at.count(s, k);
#pragma unroll
    for (int i = 0; i < kLane; ++i)
      squares += (kWhole ? n > 0 : i < n) ? (x[k][i] - mean) * (x[k][i] - mean) : 0.0F;
  }
  return squares;
}

template <typename T, bool kWhole, int kPacks>
__device__ inline void put_normalised(const NormShape& s, const NormPlace& at,
                                      const GroupPacks<T, kWhole, kPacks>& gain,
                                      const GroupPacks<T, kWhole, kPacks>& bias, float mean,
                                      float rstd, GroupValues<kPacks>& x, T* to) {
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    float g[kLane];
    float b[kLane];
    unpack(gain.packs[k], g);
    unpack(bias.packs[k], b);
#pragma unroll
    for (int i = 0; i < kLane; ++i)
      x[k][i] = (x[k][i] - mean) * rstd * g[i] + b[i];
    put<kWhole>(x[k], at.count(s, k), to + at.col(s, k));
  }
}

template <typename T, bool kCentred, bool kWhole, int kPacks>
__global__ void __launch_bounds__(norm_threads(kPacks),
                                  norm_blocks(kPacks, forward_blocks(kPacks, sizeof(T))))
    norm_forward_kernel(NormShape s, NormForward<T> o) {
  LOCKSTEP_SHARED(float, room, kWarp);
  NormPlace at(s);
  GroupPacks<T, kWhole, kPacks> gain;
  GroupPacks<T, kWhole, kPacks> bias;
  GroupPacks<T, kWhole, kPacks> next;
  next.fetch_group(s, at, o.x);
  gain.fetch_shared(s, at, o.gain);
  bias.fetch_shared(s, at, kCentred ? o.bias : nullptr);
  const auto width = static_cast<float>(s.width);
  for (int first = NormPlace::first_of_block(s); first < s.groups; first += s.step) {
    GroupValues<kPacks> x;
    float sum[1] = {};
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      unpack(next.packs[k], x[k]);
#pragma unroll
      for (int i = 0; i < kLane; ++i)
        sum[0] += x[k][i];
    }
    const NormPlace here = at;
    at.advance(s);
    next.fetch_group(s, at, o.x);
    if constexpr (kCentred) sum_group<kPacks>(s, sum, room);
    const float m = kCentred ? sum[0] / width : 0.0F;
    float squares[1] = {centred_squares<kWhole, kPacks>(s, here, x, m)};
    sum_group<kPacks>(s, squares, room);
    const float r = 1.0F / sqrtf(squares[0] / width + o.eps);
    gain.renew();
    bias.renew();
    put_normalised<T, kWhole, kPacks>(s, here, gain, bias, m, r, x, here.base(s, o.y));
    if (!here.inside(s) || here.lane != 0) continue;
    if constexpr (kCentred) o.mean[here.group] = m;
    o.rstd[here.group] = r;
  }
}

template <typename T>
struct NormBackward {
  Rows<const T> dy;
  Rows<const T> x;
  const T* gain;
  const float* mean;
  const float* rstd;
  Rows<const T> add;
  Rows<T> dx;
  float* dgain_slots;  // [blocks, width]
  float* dbias_slots;
};

// What backward reads of a group.
template <typename T, bool kCentred, bool kWhole, int kPacks>
struct BackwardInput {
  GroupPacks<T, kWhole, kPacks> x;
  GroupPacks<T, kWhole, kPacks> dy;
  float mean;
  float rstd;

  __device__ void fetch_group(const NormShape& s, const NormPlace& at, const NormBackward<T>& o) {
    x.fetch_group(s, at, o.x);
    dy.fetch_group(s, at, o.dy);
    mean = kCentred && at.inside(s) ? o.mean[at.group] : 0.0F;
    rstd = at.inside(s) ? o.rstd[at.group] : 0.0F;
  }
};

// With u = dy * gain and h = (x - mean) * rstd: dx = rstd * (u - mean(u) - h * mean(u * h)) + add;
// RMSNorm has mean = 0 and no mean(u). Beside u and h of its part of a group a thread keeps the
// sums of dy * h and dy over all its groups.
template <int kPacks>
struct BackwardValues {
  GroupValues<kPacks> u;
  GroupValues<kPacks> h;
  GroupValues<kPacks> dgain;
  GroupValues<kPacks> dbias;
  float sums[2];  // of u and u * h over the group

  __device__ void clear() {
#pragma unroll
    for (int k = 0; k < kPacks; ++k)
#pragma unroll
      for (int i = 0; i < kLane; ++i)
        dgain[k][i] = dbias[k][i] = 0.0F;
  }

  // Elements behind the group have dy = gain = 0 and so add nothing.
  template <typename T, bool kCentred, bool kWhole>
  __device__ void take(const BackwardInput<T, kCentred, kWhole, kPacks>& in,
                       const GroupPacks<T, kWhole, kPacks>& gain) {
    sums[0] = sums[1] = 0.0F;
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      float g[kLane];
      unpack(gain.packs[k], g);
      unpack(in.x.packs[k], h[k]);
      unpack(in.dy.packs[k], u[k]);
#pragma unroll
      for (int i = 0; i < kLane; ++i) {
        h[k][i] = (h[k][i] - in.mean) * in.rstd;
        dgain[k][i] += u[k][i] * h[k][i];
        dbias[k][i] += u[k][i];
        u[k][i] *= g[i];
        sums[0] += u[k][i];
        sums[1] += u[k][i] * h[k][i];
      }
    }
  }

  template <bool kCentred, bool kWhole, typename T>
  __device__ void put_dx(const NormShape& s, const NormPlace& at, float rstd,
                         const GroupPacks<T, kWhole, kPacks>& add, const Rows<T>& dx) {
    const float one_over_width = 1.0F / static_cast<float>(s.width);
    const float mean_u = kCentred ? sums[0] * one_over_width : 0.0F;
    const float mean_uh = sums[1] * one_over_width;
    T* to = at.base(s, dx);
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      float a[kLane];
      unpack(add.packs[k], a);
#pragma unroll
      for (int i = 0; i < kLane; ++i)
        u[k][i] = rstd * (u[k][i] - mean_u - h[k][i] * mean_uh) + a[i];
      put<kWhole>(u[k], at.count(s, k), to + at.col(s, k));
    }
  }
};

// Adds the sums of a block's threads up, in the order of its groups, and leaves them in the block's
// slot. Every thread of the block must come; `room`: the values of all threads, of groups that
// share a block.
template <int kPacks>
__device__ inline void put_sums(const NormShape& s, int lane, const GroupValues<kPacks>& sums,
                                float* room, float* slots) {
  float* slot = slots + static_cast<std::int64_t>(blockIdx.x) * s.width;
  const bool alone = s.lanes > kWarp;
  const int span = s.lanes * kPacks * kLane;
  float* own = alone ? slot : room + static_cast<int>(threadIdx.x) / s.lanes * span;
#pragma unroll
  for (int k = 0; k < kPacks; ++k)
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      const int col = (lane + k * s.lanes) * kLane + i;
      if (col < s.width) own[col] = sums[k][i];
    }
  if (alone) return;
  sync_threads();
  const int groups = static_cast<int>(blockDim.x) / s.lanes;
  for (int col = static_cast<int>(threadIdx.x); col < s.width;
       col += static_cast<int>(blockDim.x)) {
    float total = room[col];
    for (int g = 1; g < groups; ++g)
      total += room[g * span + col];
    slot[col] = total;
  }
  sync_threads();
}

template <typename T, bool kCentred, bool kWhole, int kPacks>
__global__ void __launch_bounds__(norm_threads(kPacks),
                                  norm_blocks(kPacks, backward_blocks(kPacks, sizeof(T))))
    norm_backward_kernel(NormShape s, NormBackward<T> o) {
  LOCKSTEP_SHARED(float, room, 2 * kWarp);
  LOCKSTEP_SHARED(float, block_sums, static_cast<int>(kNormThreads) * kPacks * kLane);
  // Four packs of fp32 and their sums leave no registers for the next group.
  constexpr bool kAhead = kPacks * sizeof(T) < kMostPacks * sizeof(float);
  NormPlace at(s);
  GroupPacks<T, kWhole, kPacks> gain;
  gain.fetch_shared(s, at, o.gain);
  BackwardInput<T, kCentred, kWhole, kPacks> in;
  if constexpr (kAhead) in.fetch_group(s, at, o);
  BackwardValues<kPacks> values;
  values.clear();
  for (int first = NormPlace::first_of_block(s); first < s.groups; first += s.step) {
    if constexpr (!kAhead) in.fetch_group(s, at, o);
    GroupPacks<T, kWhole, kPacks> add = {};
    if (o.add.data != nullptr) add.fetch_group(s, at, o.add);
    gain.renew();
    values.take(in, gain);
    const float rstd = in.rstd;
    const NormPlace here = at;
    at.advance(s);
    if constexpr (kAhead) in.fetch_group(s, at, o);
    sum_group<kPacks>(s, values.sums, room);
    values.template put_dx<kCentred, kWhole>(s, here, rstd, add, o.dx);
  }
  put_sums<kPacks>(s, at.lane, values.dgain, block_sums, o.dgain_slots);
  if (kCentred && o.dbias_slots != nullptr)
    put_sums<kPacks>(s, at.lane, values.dbias, block_sums, o.dbias_slots);
}

template <bool kCentred>
void norm_forward(OpContext& context, const char* op, ConstTensorView x, ConstTensorView gain,
                  ConstTensorView bias, double eps, std::int64_t heads, TensorView y,
                  TensorView mean, TensorView rstd) {
  NormShape s(op, x.rows(), heads, gain.elements());
  s.cut(kMultiprocessors * forward_blocks(s.packs, core::size_of(x.dtype())));
  visit_compute(x.dtype(), [&](auto type) {
    using T = decltype(type);
    const NormForward<T> o{rows_of<const T>(x, s.width), pointer_of<const T>(gain),
                           pointer_of<const T>(bias),    static_cast<float>(eps),
                           rows_of<T>(y, s.width),       pointer_of<float>(mean),
                           pointer_of<float>(rstd)};
    const bool aligned = o.x.aligned && o.y.aligned && on_16_bytes(o.gain) && on_16_bytes(o.bias);
    visit_packs(s, aligned, [&](auto whole, auto packs) {
      launch(op, norm_forward_kernel<T, kCentred, whole(), packs()>, s.grid(), context.stream(), s,
             o);
    });
  });
}

template <bool kCentred>
void norm_backward(OpContext& context, const char* op, ConstTensorView dy, ConstTensorView x,
                   ConstTensorView gain, ConstTensorView mean, ConstTensorView rstd,
                   std::int64_t heads, ConstTensorView add, TensorView dx, TensorView dgain,
                   TensorView dbias) {
  NormShape s(op, x.rows(), heads, gain.elements());
  s.cut(kMultiprocessors * backward_blocks(s.packs, core::size_of(x.dtype())));
  Carver carver(context.scratch(2 * Carver::bytes<float>(std::int64_t{s.blocks} * s.width)));
  auto* dgain_slots = carver.take<float>(std::int64_t{s.blocks} * s.width);
  float* dbias_slots =
      dbias.empty() ? nullptr : carver.take<float>(std::int64_t{s.blocks} * s.width);
  visit_compute(x.dtype(), [&](auto type) {
    using T = decltype(type);
    const NormBackward<T> o{rows_of<const T>(dy, s.width),
                            rows_of<const T>(x, s.width),
                            pointer_of<const T>(gain),
                            pointer_of<const float>(mean),
                            pointer_of<const float>(rstd),
                            rows_of<const T>(add, s.width),
                            rows_of<T>(dx, s.width),
                            dgain_slots,
                            dbias_slots};
    const bool aligned = o.dy.aligned && o.x.aligned && on_16_bytes(o.gain) &&
                         (add.empty() || o.add.aligned) && o.dx.aligned;
    visit_packs(s, aligned, [&](auto whole, auto packs) {
      launch(op, norm_backward_kernel<T, kCentred, whole(), packs()>, s.grid(), context.stream(), s,
             o);
    });
    combine_slots<T>(context, s.blocks, s.width, {dgain_slots, pointer_of<T>(dgain)},
                     {dbias_slots, pointer_of<T>(dbias)});
  });
}

}  // namespace lockstep::ops::cuda
