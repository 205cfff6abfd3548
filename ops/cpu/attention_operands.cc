#include "ops/cpu/attention_operands.h"

#include <bit>
#include <cstring>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace lockstep::ops::cpu {

void stack_pairs(std::int64_t n, std::int64_t cols, Block<const BFloat16Pair> rows,
                 Block<BFloat16Pair> stacked) {
  constexpr BFloat16Pair kLower = 0xffffU;
  for (std::int64_t r = 0; r < n; ++r) {
    const BFloat16Pair* row0 = rows.row(2 * r);
    const BFloat16Pair* row1 = rows.row(2 * r + 1);
    BFloat16Pair* to = stacked.row(r);
#pragma omp simd
    for (std::int64_t i = 0; i < cols / 2; ++i) {
      to[2 * i] = (row0[i] & kLower) | (row1[i] << 16);
      to[2 * i + 1] = (row0[i] >> 16) | (row1[i] & ~kLower);
    }
  }
}

#if defined(__AVX512BF16__)

namespace {

using Halves = std::uint16_t __attribute__((vector_size(32)));
using Pairs = BFloat16Pair __attribute__((vector_size(64)));

Halves round_to_halves(const float* values) {
  return std::bit_cast<Halves>(_mm512_cvtneps_pbh(_mm512_loadu_ps(values)));
}

}  // namespace

void round_to_pairs(const float* values, std::int64_t n, BFloat16Pair* to) {
  for (std::int64_t i = 0; i < n; i += kBlockPad) {
    const Halves rounded = round_to_halves(values + i);
    std::memcpy(to + i / 2, &rounded, sizeof(rounded));
  }
}

void round_to_stacked_pairs(const float* row0, const float* row1, std::int64_t n,
                            BFloat16Pair* to) {
  for (std::int64_t i = 0; i < n; i += kBlockPad) {
    const auto low = __builtin_convertvector(round_to_halves(row0 + i), Pairs);
    const auto high = __builtin_convertvector(round_to_halves(row1 + i), Pairs);
    const Pairs pairs = low | (high << 16);
    std::memcpy(to + i, &pairs, sizeof(pairs));
  }
}

#else

namespace {

BFloat16Pair pair_of(float low, float high) {
  return core::BFloat16(low).bits | (BFloat16Pair{core::BFloat16(high).bits} << 16);
}

}  // namespace

void round_to_pairs(const float* values, std::int64_t n, BFloat16Pair* to) {
  for (std::int64_t i = 0; i < n / 2; ++i)
    to[i] = pair_of(values[2 * i], values[2 * i + 1]);
}

void round_to_stacked_pairs(const float* row0, const float* row1, std::int64_t n,
                            BFloat16Pair* to) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i)
    to[i] = pair_of(row0[i], row1[i]);
}

#endif

}  // namespace lockstep::ops::cpu
