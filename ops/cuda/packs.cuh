#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

#include "core/cuda/kernel.cuh"

// Loads apart from their use. load() of kernel.cuh converts what it has read, so a thread that
// calls it twice waits for the first 16 bytes before it asks for the next; what is bound by the
// memory's bandwidth asks for everything first, and keeps it in as few registers as it has words.
namespace lockstep::ops::cuda {

using core::cuda::kLane;
using core::cuda::Pack;

// 8 elements as they are stored.
template <typename T>
struct alignas(16) Raw {
  static constexpr int kWords = kLane * static_cast<int>(sizeof(T)) / 4;
  std::uint32_t words[kWords];

  // From here on the compiler takes the words for new ones. What a loop converts again and again it
  // would otherwise convert once, before the loop, and keep in twice as many registers.
  __device__ void renew() {
#pragma unroll
    for (int i = 0; i < kWords; ++i)
      asm volatile("" : "+r"(words[i]));
  }
};

// Elements [p, p + count), zeros from there to 8. kWhole: count is at least 8 or not above 0, and p
// lies on 16 bytes.
template <bool kWhole, typename T>
__device__ inline Raw<T> fetch(const T* p, std::int64_t count) {
  if constexpr (kWhole) {
    Raw<T> raw = {};
    if (count > 0) raw = std::bit_cast<Raw<T>>(*reinterpret_cast<const Pack<T>*>(p));
    return raw;
  } else {
    Pack<T> pack;
#pragma unroll
    for (int i = 0; i < kLane; ++i)
      pack.v[i] = i < count ? p[i] : core::cuda::from_float<T>(0.0F);
    return std::bit_cast<Raw<T>>(pack);
  }
}

template <typename T>
__device__ inline void unpack(const Raw<T>& raw, float (&out)[kLane]) {
#pragma unroll
  for (int i = 0; i < kLane; ++i) {
    if constexpr (sizeof(T) == 4) {
      out[i] = std::bit_cast<float>(raw.words[i]);
    } else {
      const auto half = static_cast<std::uint16_t>(raw.words[i / 2] >> (i % 2 == 0 ? 0 : 16));
      out[i] = core::cuda::to_float(std::bit_cast<T>(half));
    }
  }
}

template <bool kWhole, typename T>
__device__ inline void put(const float (&in)[kLane], std::int64_t count, T* p) {
  if (count > 0) core::cuda::store(in, kWhole ? kLane : count, kWhole, p);
}

}  // namespace lockstep::ops::cuda
