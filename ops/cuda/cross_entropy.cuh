#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <type_traits>

#include "ops/cuda/op_kernel.cuh"

// The loss on a GPU, one row by one block: the online softmax, and how the threads of a block share
// a row.
namespace lockstep::ops::cuda {

// A thread takes 4 elements at a time, 4 times for one stretch of a row.
inline constexpr int kLossThreads = 512;
inline constexpr int kQuad = 4;
inline constexpr int kQuads = 4;
inline constexpr int kQuadStep = kLossThreads * kQuad;
inline constexpr int kStretch = kQuadStep * kQuads;
inline constexpr int kMostStretches = 8;  // of a row in shared memory: 256 KiB
inline constexpr float kLog2E = 1.44269504F;

__device__ inline float capped(float x, float softcap) {
  return softcap > 0.0F ? softcap * tanhf(x / softcap) : x;
}

// What one pass over a row finds: the online softmax. While everything is -inf the reference is 0,
// so that masked elements add 0 and not exp(-inf + inf). NaN is never a maximum, but makes the sum
// NaN.
struct Softmax {
  float maximum;
  double exponentials;
  double values;  // 0 unless labels are smoothed

  __device__ float reference() const { return maximum == -INFINITY ? 0.0F : maximum; }

  // The same sum, relative to a greater maximum.
  __device__ void raise(float to) {
    if (maximum != to && maximum != -INFINITY)
      exponentials *= static_cast<double>(expand_exp2((maximum - to) * kLog2E));
    maximum = to;
  }
};

__device__ inline Softmax nothing() {
  return {-INFINITY, 0.0, 0.0};
}

// One thread's part of a stretch: elements column(begin, k) + i. There are none from vocab on.
using Stretch = float[kQuads][kQuad];

__device__ inline int column(int begin, int k) {
  return begin + k * kQuadStep + static_cast<int>(threadIdx.x) * kQuad;
}

template <typename T>
struct alignas(kQuad * sizeof(T)) Quad {
  T v[kQuad];
};

template <typename T>
__device__ inline Quad<T> narrowed(const float (&z)[kQuad]) {
  if constexpr (std::is_same_v<T, float>)
    return {{z[0], z[1], z[2], z[3]}};
  else
    return std::bit_cast<Quad<T>>(
        std::array<unsigned, 2>{pack_pair<T>(z[0], z[1]), pack_pair<T>(z[2], z[3])});
}

__device__ inline void read_stretch(const float* from, int begin, int vocab, bool aligned,
                                    Stretch& z) {
#pragma unroll
  for (int k = 0; k < kQuads; ++k) {
    const int c = column(begin, k);
    if (aligned && c + kQuad <= vocab) {
      const auto quad = *reinterpret_cast<const Quad<float>*>(from + c);
#pragma unroll
      for (int i = 0; i < kQuad; ++i)
        z[k][i] = quad.v[i];
    } else {
#pragma unroll
      for (int i = 0; i < kQuad; ++i)
        z[k][i] = c + i < vocab ? from[c + i] : -INFINITY;
    }
  }
}

template <typename T>
__device__ inline void write_stretch(const Stretch& z, int begin, int vocab, bool aligned, T* to) {
#pragma unroll
  for (int k = 0; k < kQuads; ++k) {
    const int c = column(begin, k);
    if (aligned && c + kQuad <= vocab) {
      *reinterpret_cast<Quad<T>*>(to + c) = narrowed<T>(z[k]);
    } else {
#pragma unroll
      for (int i = 0; i < kQuad; ++i)
        if (c + i < vocab) to[c + i] = from_float<T>(z[k][i]);
    }
  }
}

// Brings the thread's own part of a stretch into shared memory, where no other thread touches it:
// copied meanwhile where 16 bytes can be, and at once where not. One group of copies.
__device__ inline void keep_stretch(const float* from, int begin, int vocab, bool aligned,
                                    float* kept) {
  if (!aligned) {
    Stretch z;
    read_stretch(from, begin, vocab, false, z);
    write_stretch(z, begin, vocab, true, kept);
  } else {
#pragma unroll
    for (int k = 0; k < kQuads; ++k) {
      const int c = column(begin, k);
      if (c + kQuad <= vocab) {
        copy_async(kept + c, from + c);
      } else {
        for (int i = c; i < vocab; ++i)
          kept[i] = from[i];
      }
    }
  }
  copy_async_commit();
}

// Until all but the newest n groups of copies are there.
__device__ inline void wait_for_copies(int n) {
  switch (n) {
    case 0:
      return copy_async_wait<0>();
    case 1:
      return copy_async_wait<1>();
    case 2:
      return copy_async_wait<2>();
    case 3:
      return copy_async_wait<3>();
    case 4:
      return copy_async_wait<4>();
    case 5:
      return copy_async_wait<5>();
    case 6:
      return copy_async_wait<6>();
    default:
      return copy_async_wait<kMostStretches - 1>();
  }
}

// Beyond vocab -inf stays, which counts for nothing.
__device__ inline void cap_stretch(float softcap, int begin, int vocab, Stretch& z) {
  if (softcap <= 0.0F) return;
#pragma unroll
  for (int k = 0; k < kQuads; ++k)
#pragma unroll
    for (int i = 0; i < kQuad; ++i)
      if (column(begin, k) + i < vocab) z[k][i] = capped(z[k][i], softcap);
}

}  // namespace lockstep::ops::cuda
