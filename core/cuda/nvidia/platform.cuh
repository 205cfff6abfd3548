#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <tuple>

#include "core/cuda/nvidia/launch.h"
#include "core/device_runtime.h"

// The words of core/cuda/kernel.cuh on a GPU.
namespace lockstep::core::cuda {

using BF16 = __nv_bfloat16;
using F16 = __half;

__device__ inline float to_float(float x) {
  return x;
}
__device__ inline float to_float(BF16 x) {
  return __bfloat162float(x);
}
__device__ inline float to_float(F16 x) {
  return __half2float(x);
}

template <typename T>
__device__ inline T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline BF16 from_float<BF16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ inline F16 from_float<F16>(float x) {
  return __float2half_rn(x);
}

#define LOCKSTEP_SHARED(T, name, n) __shared__ alignas(16) T name[n]

template <typename T>
__device__ inline T* dynamic_shared() {
  extern __shared__ uint4 lockstep_dynamic_shared[];
  return reinterpret_cast<T*>(lockstep_dynamic_shared);
}

__device__ inline void sync_threads() {
  __syncthreads();
}
__device__ inline void sync_warp() {
  __syncwarp();
}

inline constexpr unsigned kAllLanes = 0xffffffffU;

template <typename A>
__device__ inline A shuffle(A value, int lane) {
  return __shfl_sync(kAllLanes, value, lane);
}
template <typename A>
__device__ inline A shuffle_xor(A value, int mask) {
  return __shfl_xor_sync(kAllLanes, value, mask);
}
__device__ inline unsigned ballot(bool predicate) {
  return __ballot_sync(kAllLanes, predicate);
}

__device__ inline void add_integer(std::int64_t* to, std::int64_t value) {
  atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(value));
}
__device__ inline void lower_integer(std::int64_t* to, std::int64_t value) {
  static_assert(sizeof(long long) == sizeof(std::int64_t));
  atomicMin(reinterpret_cast<long long*>(to), static_cast<long long>(value));
}

__device__ inline void copy_async(void* to, const void* from) {
  const auto shared = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(shared), "l"(from) : "memory");
}
__device__ inline void copy_async_or_zero(void* to, const void* from, bool present) {
  const auto shared = static_cast<unsigned>(__cvta_generic_to_shared(to));
  const int bytes = present ? 16 : 0;  // read; the rest of the 16 is filled with zeros
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared), "l"(from),
               "r"(bytes)
               : "memory");
}
__device__ inline void copy_async_commit() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}
template <int N>
__device__ inline void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(N) : "memory");
}

__device__ inline void load_matrices(unsigned (&r)[4], const void* row) {
  const auto shared = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared)
               : "memory");
}
__device__ inline void load_matrices_transposed(unsigned (&r)[4], const void* row) {
  const auto shared = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared)
               : "memory");
}

__device__ inline void multiply_add(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                                    BF16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ inline void multiply_add(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                                    F16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// exp2f() spends three more instructions on results below 2^-126.
__device__ inline float expand_exp2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(result) : "f"(x));
  return result;
}

__device__ inline float approximate_reciprocal(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;\n" : "=f"(result) : "f"(x));
  return result;
}

// One instruction, where two conversions would take three.
template <typename T>
__device__ inline unsigned pack_pair(float first, float second);
template <>
__device__ inline unsigned pack_pair<BF16>(float first, float second) {
  unsigned bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(bits) : "f"(second), "f"(first));
  return bits;
}
template <>
__device__ inline unsigned pack_pair<F16>(float first, float second) {
  unsigned bits;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;\n" : "=r"(bits) : "f"(second), "f"(first));
  return bits;
}

// In this form, and not as mad.wide, ptxas makes one IMAD.WIDE of it that adds c too.
__device__ inline std::uint64_t multiply_add_wide(std::uint32_t a, std::uint32_t b,
                                                  std::uint64_t c) {
  std::uint32_t low;
  std::uint32_t high;
  asm("mad.lo.cc.u32 %0, %2, %3, %4;\n\tmadc.hi.u32 %1, %2, %3, %5;\n"
      : "=&r"(low), "=r"(high)
      : "r"(a), "r"(b), "r"(static_cast<std::uint32_t>(c)),
        "r"(static_cast<std::uint32_t>(c >> 32)));
  return static_cast<std::uint64_t>(high) << 32 | low;
}

inline void check_device_range(const void*, std::size_t) {}

// Starts `kernel` on `stream`; `name` is for messages.
template <typename... P, typename... A>
void launch(const char* name, void (*kernel)(P...), const Grid& grid, const DeviceStream& stream,
            const A&... arguments) {
  std::tuple<P...> values(static_cast<P>(arguments)...);
  std::apply(
      [&](P&... value) {
        void* pointers[] = {static_cast<void*>(&value)..., nullptr};
        launch_pointer(name, reinterpret_cast<const void*>(kernel), grid, stream, pointers);
      },
      values);
}

}  // namespace lockstep::core::cuda
