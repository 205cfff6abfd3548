#pragma once

#include <cstddef>
#include <cstdint>

#include "core/device_runtime.h"
#include "core/dtype.h"

// What kernels are written against, so that the same sources run on a GPU and, for tests on
// machines without one, on a stand-in over host memory that executes them thread by thread. A
// kernel is a
// `__global__ void` function template that uses threadIdx, blockIdx, blockDim, gridDim, and
// otherwise only what stands here; it is started by launch(), never by <<<>>>.
//
// The platform header (named by the build: core/cuda/nvidia/platform.cuh or
// core/cuda/stand_in/platform.cuh) defines, beside those words of CUDA,
//
//   BF16, F16                       storage of 16-bit floats; to_float(x), from_float<T>(x)
//   LOCKSTEP_SHARED(T, name, n)     T name[n] in shared memory, the same for the whole block
//   dynamic_shared<T>()             the shared memory that the launch asked for, 16-byte aligned
//   sync_threads(), sync_warp()     barriers; every thread of the block (warp) must come
//   shuffle(x, lane), shuffle_xor(x, mask), ballot(predicate)    within a warp, all 32 lanes
//   copy_async(to, from)            16 bytes from global to shared memory, under way until
//   copy_async_or_zero(to, from, present)    the same, or 16 bytes of zeros and nothing is read
//   copy_async_commit(), copy_async_wait<N>()    all but the newest N committed groups are there
//   load_matrices(r, row), load_matrices_transposed(r, row)      ldmatrix.x4(.trans) of b16
//   multiply_add(d, a, b, T{})      mma.sync.m16n8k16, T = BF16 or F16: d += a b in fp32
//   add_integer(to, value)          atomic *to += value, in global or shared memory
//   lower_integer(to, value)        atomic *to = min(*to, value), in global memory
//   expand_exp2(x)                  2^x, at most 2 units in the last place off; 0 may stand for
//                                   results below 2^-126
//   approximate_reciprocal(x)       1 / x, 1 unit in the last place off; 0 may stand for results
//   below
//                                   2^-126
//   pack_pair<T>(first, second)     both as T = BF16 or F16 in one register, the first one low
//   multiply_add_wide(a, b, c)      a b + c, unsigned, of 32, 32 and 64 bits, as one instruction
//   check_device_range(p, bytes)    on the host: the stand-in refuses what is not device memory
//   launch(...)                     below
//
// Nothing here orders additions by who comes first so that it shows: there are no atomics on
// floats, and integers add up to the same in every order.
#include LOCKSTEP_KERNEL_PLATFORM

namespace lockstep::core::cuda {

inline constexpr int kWarp = 32;

__device__ inline int lane_of_thread() {
  return static_cast<int>(threadIdx.x % kWarp);
}
__device__ inline int warp_of_thread() {
  return static_cast<int>(threadIdx.x / kWarp);
}

// 8 elements: the unit in which rows are read and written.
inline constexpr int kLane = 8;

template <typename T>
struct alignas(16) Pack {
  T v[kLane];
};

// Elements [p, p + count) in fp32, zeros from there to 8. `aligned`: p lies on 16 bytes whenever
// count is 8, and then the row is read 16 bytes at a time.
template <typename T>
__device__ inline void load(const T* p, std::int64_t count, bool aligned, float (&out)[kLane]) {
  if (aligned && count >= kLane) {
    const Pack<T> pack = *reinterpret_cast<const Pack<T>*>(p);
#pragma unroll
    for (int i = 0; i < kLane; ++i)
      out[i] = to_float(pack.v[i]);
    return;
  }
#pragma unroll
  for (int i = 0; i < kLane; ++i)
    out[i] = i < count ? to_float(p[i]) : 0.0F;
}

template <typename T>
__device__ inline void store(const float (&in)[kLane], std::int64_t count, bool aligned, T* p) {
  if (aligned && count >= kLane) {
    Pack<T> pack;
#pragma unroll
    for (int i = 0; i < kLane; ++i)
      pack.v[i] = from_float<T>(in[i]);
    *reinterpret_cast<Pack<T>*>(p) = pack;
    return;
  }
#pragma unroll
  for (int i = 0; i < kLane; ++i)
    if (i < count) p[i] = from_float<T>(in[i]);
}

// Rows of a matrix in device memory as kernels take it; data is null for an absent operand.
template <typename T>
struct Rows {
  T* data;
  std::int64_t stride;  // elements between rows
  bool aligned;         // every row begins on 16 bytes

  __device__ T* row(std::int64_t r) const { return data + r * stride; }
};

struct AddOf {
  template <typename A>
  __device__ A operator()(A a, A b) const {
    return a + b;
  }
};
struct MaximumOf {
  template <typename A>
  __device__ A operator()(A a, A b) const {
    return a > b ? a : b;
  }
};

// The combination over groups of `lanes` lanes (a power of two, 1 to 32), the same bits on every
// lane of a group.
template <typename A, typename F>
__device__ inline A combine_lanes(A value, F f, int lanes = kWarp) {
  for (int offset = lanes / 2; offset > 0; offset /= 2)
    value = f(value, shuffle_xor(value, offset));
  return value;
}

// The combination over all threads of the block, the same bits on every thread. Ends with a barrier
// before it, so that `room` (one A per warp, shared) may be used again at once.
template <typename A, typename F>
__device__ inline A combine_block(A value, F f, A* room) {
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  value = combine_lanes(value, f);
  if (warps == 1) return value;
  sync_threads();
  if (threadIdx.x % kWarp == 0) room[threadIdx.x / kWarp] = value;
  sync_threads();
  value = room[0];
  for (int w = 1; w < warps; ++w)
    value = f(value, room[w]);
  return value;
}

}  // namespace lockstep::core::cuda
