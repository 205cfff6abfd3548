#pragma once

#include "models/ops/cuda/op_kernel.cuh"
#include "models/ops/cuda/packs.cuh"

// Elementwise work on operands that are whole packs behind one another, without rows: what most
// tensors of a training step are. A thread asks for several packs before it uses the first.
namespace lockstep::models::ops::cuda {

inline constexpr unsigned kFlatThreads = 256;
inline constexpr int kFlatPacks = 4;  // of a thread

struct FlatWalk {
  unsigned packs =
      0;  // of all operands; 0: they are not whole packs, or too many to count in 32 bits

  template <typename... T>
  explicit FlatWalk(const Walk& walk, const Rows<T>&... operands) {
    const bool aligned = (... && (operands.data == nullptr || operands.aligned));
    if (walk.flat && aligned && walk.cols % kLane == 0 && walk.cols / kLane < (1LL << 31))
      packs = static_cast<unsigned>(walk.cols / kLane);
  }

  Grid grid() const {
    return {block_count(ceil_div(packs, kFlatThreads * kFlatPacks)), kFlatThreads, 0};
  }
  __device__ static unsigned pack(int k) {
    return (blockIdx.x * kFlatPacks + static_cast<unsigned>(k)) * kFlatThreads + threadIdx.x;
  }
  template <typename T>
  __device__ Raw<T> fetch_pack(const Rows<const T>& from, int k) const {
    const unsigned at = pack(k);
    return fetch<true>(from.data + static_cast<std::int64_t>(at) * kLane, at < packs ? kLane : 0);
  }
  template <typename T>
  __device__ void put_pack(const float (&values)[kLane], const Rows<T>& to, int k) const {
    const unsigned at = pack(k);
    put<true>(values, at < packs ? kLane : 0, to.data + static_cast<std::int64_t>(at) * kLane);
  }
};

}  // namespace lockstep::models::ops::cuda
