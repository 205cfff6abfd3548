#pragma once

#include "ops/cuda/attention/flash_dropout.cuh"

// The two kernels of flash attention's backward: keys and values (flash_backward_kv.cuh), queries
// (flash_backward_q.cuh). Both compute scores and probabilities anew, which makes seven products in
// place of the five of one kernel; in turn every sum has one owner that adds in order, operands of
// the second products stay in the registers where the first ones left them, and no sums of
// gradients travel through memory (for T = 1024 and D = 64 those of queries, once for each tile of
// keys, would cost about as much time as the two products).
namespace lockstep::ops::cuda {

// Sums of queries, by head and position: [B*H, padded] with `padded` a multiple of kTileRows. A
// query that is not there has infinity and 0: its probabilities come out as 0.
struct QuerySums {
  const float* lse_log2;     // lse * log2(e)
  const float* minus_delta;  // -sum(dout * out): what the softmax's derivative adds
  std::int64_t padded;

  __device__ std::int64_t begin(const FlashShape& shape, int sequence, int head) const {
    return (static_cast<std::int64_t>(sequence) * shape.heads + head) * padded;
  }
};

template <typename T>
struct BackwardOperands {
  FlashShape shape;
  HeadMatrix<const T> q;
  HeadMatrix<const T> k;
  HeadMatrix<const T> v;
  HeadMatrix<const T> dout;
  QuerySums sums;
  DropoutRule dropout;
  HeadMatrix<T> dq;
  HeadMatrix<T> dk;
  HeadMatrix<T> dv;
};

// From scores and the products dout v: probabilities (times the factor of dropout) and d(scores) /
// scale. Products begin with minus_delta, so that nothing is left to add but with dropout, whose
// factor comes between; they begin with 0 then.
template <bool kDrops, int kParts, int kTiles, typename Delta>
__device__ inline void begin_products(float (&products)[kParts][kTiles][4], Delta minus_delta) {
  for_each_element(products, [&](float& product, int m, int n, int i) {
    product = kDrops ? 0.0F : minus_delta(m, n, i);
  });
}

// factors(kept, m, n): the factors of dropout of the lane's elements of an n-tile.
template <bool kDrops, int kParts, int kTiles, typename Lse, typename Delta, typename Factors>
__device__ inline void differentiate(float (&scores)[kParts][kTiles][4],
                                     float (&products)[kParts][kTiles][4], float scale_log2,
                                     Lse lse_log2, Delta minus_delta, Factors factors) {
#pragma unroll
  for (int m = 0; m < kParts; ++m) {
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      float kept[4];
      if constexpr (kDrops) factors(kept, m, n);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float probability = expand_exp2(scores[m][n][i] * scale_log2 - lse_log2(m, n, i));
        if constexpr (kDrops) {
          scores[m][n][i] = probability * kept[i];
          products[m][n][i] = probability * (kept[i] * products[m][n][i] + minus_delta(m, n, i));
        } else {
          scores[m][n][i] = probability;
          products[m][n][i] *= probability;
        }
      }
    }
  }
}

}  // namespace lockstep::ops::cuda
