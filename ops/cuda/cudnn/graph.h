#pragma once

#include <compare>
#include <cstdint>
#include <deque>
#include <vector>

#include "ops/cuda/cudnn/library.h"

// Attention written out as a graph of products, pointwise operations and sums, which cuDNN
// recognises and serves with one flash-attention kernel. The graph is the one that NVIDIA's own
// frontend builds (github.com/NVIDIA/cudnn-frontend, scaled_dot_product_flash_attention.h), since
// its kernels are found by the pattern: another order of the same arithmetic may be refused.
namespace lockstep::ops::cuda {

// The tensors that a call brings, by the numbers under which a graph knows them. Scalars are read
// from host memory when the graph is executed.
enum class AttentionTensor : std::int64_t {
  kQuery = 1,
  kKey,
  kValue,
  kOut,
  kLse,            // fp32 [B, H, T, 1]: natural logarithm of the sum of exp(scale * score)
  kScale,          // fp32 scalar
  kMinusInfinity,  // fp32 scalar
  kOne,            // fp32 scalar, backward only
  kOutGradient,
  kQueryGradient,
  kKeyGradient,
  kValueGradient,
  kRowSums,    // fp32 [B, H, T, 1], contiguous: sums of dout * out, of no use afterwards
  kQuerySums,  // fp32 [B, H, T, D], contiguous: dq before it is rounded, added up by atomics
  kOthers = 100
};

// Elements from one row (a position of a sequence) to the next. Heads follow one another in a row.
struct AttentionStrides {
  std::int64_t q, k, v, out;
  std::int64_t lse;  // from one head of one sequence to the next
  std::int64_t dout, dq, dk, dv;

  auto operator<=>(const AttentionStrides&) const = default;
};

struct AttentionProblem {
  bool backward;
  std::int64_t sequences, length, heads, kv_heads, width;  // B, T, H, K, D
  bool causal;
  cudnnDataType_t dtype;  // CUDNN_DATA_BFLOAT16 or CUDNN_DATA_HALF
  AttentionStrides strides;

  auto operator<=>(const AttentionProblem&) const = default;
};

// Every pointer of a call must be aligned to so many bytes.
inline constexpr std::int64_t kCudnnAlignment = 16;

// A described graph. It is kept as long as a plan made from it.
struct AttentionGraph {
  std::deque<CudnnDescriptor> parts;
  std::vector<CudnnDescriptor> graph;  // one
};

// Throws CudnnRefusal when cuDNN does not take the description. `handle`: of the device that is to
// run it; null: planned for a device that is described later.
AttentionGraph describe_attention(const CudnnLibrary& library, const AttentionProblem& problem,
                                  cudnnHandle_t handle);

}  // namespace lockstep::ops::cuda
