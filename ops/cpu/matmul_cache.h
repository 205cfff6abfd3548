#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/dtype.h"

namespace lockstep::ops {

// One product c[m, n] = op(a) op(b) + bias as oneDNN is asked for it. Strides are between rows, in
// elements.
struct GemmShape {
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::int64_t stride_a = 0;
  std::int64_t stride_b = 0;
  std::int64_t stride_c = 0;
  core::DType input = core::DType::kF32;   // of a, b and bias: fp32 or bf16
  core::DType output = core::DType::kF32;  // of c: the same, or fp32
  bool transpose_a = false;                // a is [k, m]
  bool transpose_b = false;                // b is [n, k]
  bool bias = false;
  bool add = false;  // c += instead of c =

  auto operator<=>(const GemmShape&) const = default;
};

struct GemmArguments {
  const void* a = nullptr;
  const void* b = nullptr;
  const void* bias = nullptr;
  void* c = nullptr;
  std::byte* scratchpad = nullptr;  // 64-byte aligned, scratchpad_bytes() of the kernel
};

struct GemmKernel;  // a oneDNN primitive

// The oneDNN primitives of one rank, made at the first use of a shape and kept, because making one
// (it generates machine code) costs more than a small product. Every primitive is made for, and
// runs on, one thread: oneDNN would otherwise choose its blocking, and with it the order of
// summation, by the number of threads.
class MatmulCache {
 public:
  MatmulCache();
  ~MatmulCache();
  MatmulCache(const MatmulCache&) = delete;
  MatmulCache& operator=(const MatmulCache&) = delete;

  // The reference stays valid as long as the cache. Within a parallel region only shapes that were
  // asked for before may be asked for: the lookup then changes nothing.
  const GemmKernel& kernel(const GemmShape& shape);

  // May be called from several threads at a time, each with its own scratchpad, inside a
  // SingleThreadedOneDnn scope of the thread that opened the parallel region.
  static void execute(const GemmKernel& kernel, const GemmArguments& arguments);
  static std::size_t scratchpad_bytes(const GemmKernel& kernel);
  // The same for the kernel that a shape would get, without making it.
  static std::size_t scratchpad_bytes(const GemmShape& shape);

  // Whether this machine multiplies bf16 in hardware, so that oneDNN is faster on it than on fp32.
  static bool native_bf16();

 private:
  struct State;  // in the .cc, so that oneDNN's headers stay there
  std::unique_ptr<State> state_;
};

// While alive, oneDNN called from this thread uses one thread.
class SingleThreadedOneDnn {
 public:
  SingleThreadedOneDnn();
  ~SingleThreadedOneDnn();
  SingleThreadedOneDnn(const SingleThreadedOneDnn&) = delete;
  SingleThreadedOneDnn& operator=(const SingleThreadedOneDnn&) = delete;

 private:
  int previous_;
};

}  // namespace lockstep::ops
