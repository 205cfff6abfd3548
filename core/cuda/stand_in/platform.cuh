#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/cuda/stand_in/machine.h"
#include "core/device_runtime.h"
#include "core/dtype.h"

// The words of core/cuda/kernel.cuh on the stand-in.
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

using lockstep::core::cuda::blockDim;
using lockstep::core::cuda::blockIdx;
using lockstep::core::cuda::gridDim;
using lockstep::core::cuda::threadIdx;

namespace lockstep::core::cuda {

using BF16 = BFloat16;
using F16 = Float16;

inline float to_float(float x) {
  return x;
}
inline float to_float(BF16 x) {
  return static_cast<float>(x);
}
inline float to_float(F16 x) {
  return static_cast<float>(x);
}
template <typename T>
T from_float(float x) {
  return static_cast<T>(x);
}

#define LOCKSTEP_SHARED(T, name, n)          \
  static const char lockstep_tag_##name = 0; \
  T* const name =                            \
      static_cast<T*>(::lockstep::core::cuda::shared_array(&lockstep_tag_##name, sizeof(T) * (n)))

template <typename T>
T* dynamic_shared() {
  return static_cast<T*>(dynamic_shared_memory());
}

template <typename A>
A shuffle(A value, int lane) {
  A result;
  std::memcpy(&result, exchange("shuffle", &value, sizeof(A)).of(lane), sizeof(A));
  return result;
}
template <typename A>
A shuffle_xor(A value, int mask) {
  A result;
  const int other = lane_index() ^ mask;
  std::memcpy(&result, exchange("shuffle_xor", &value, sizeof(A)).of(other), sizeof(A));
  return result;
}

// Threads of the stand-in take turns and are never interrupted.
inline void add_integer(std::int64_t* to, std::int64_t value) {
  *to += value;
}
inline void lower_integer(std::int64_t* to, std::int64_t value) {
  if (value < *to) *to = value;
}

inline void copy_async_or_zero(void* to, const void* from, bool present) {
  if (present) {
    copy_async(to, from);
  } else {
    std::memset(to, 0, 16);
  }
}

inline float expand_exp2(float x) {
  return std::exp2(x);
}

inline float approximate_reciprocal(float x) {
  return 1.0F / x;
}

template <typename T>
unsigned pack_pair(float first, float second) {
  const T pair[2] = {from_float<T>(first), from_float<T>(second)};
  unsigned bits;
  std::memcpy(&bits, pair, sizeof bits);
  return bits;
}

inline std::uint64_t multiply_add_wide(std::uint32_t a, std::uint32_t b, std::uint64_t c) {
  return static_cast<std::uint64_t>(a) * b + c;
}

template <typename P>
LaunchPointer launch_pointer(const P& argument) {
  if constexpr (std::is_pointer_v<P>) {
    return {argument, !std::is_const_v<std::remove_pointer_t<P>>};
  } else {
    return {};
  }
}

// Runs `kernel` to its end; the stream is there to be checked. Throws Error(kInternal) naming
// kernel, block and thread for what machine.h forbids.
template <typename... P, typename... A>
void launch(const char* name, void (*kernel)(P...), const Grid& grid, const DeviceStream& stream,
            const A&... arguments) {
  const auto run = [&] { kernel(static_cast<P>(arguments)...); };
  const std::array<LaunchPointer, sizeof...(P)> pointers = {
      launch_pointer<P>(static_cast<P>(arguments))...};
  run_grid(
      name, grid, stream, pointers,
      [](const void* body) { (*static_cast<const decltype(run)*>(body))(); }, &run);
}

}  // namespace lockstep::core::cuda
