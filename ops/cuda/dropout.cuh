#pragma once

#include "core/random.h"
#include "ops/cuda/op_kernel.cuh"
#include "ops/dropout.h"

namespace lockstep::ops::cuda {

// Dropout as kernels take it: the same decisions as dropout_factors().
struct DropoutRule {
  bool active;
  float probability;
  float scale;  // of what is kept
  core::Philox4x32Key key;
  std::int64_t first_sequence;
  std::int64_t sequence_elements;

  explicit DropoutRule(const Dropout& dropout, std::int64_t elements_of_sequence)
      : active(dropout.active()),
        probability(static_cast<float>(dropout.probability)),
        scale(static_cast<float>(1.0 / (1.0 - dropout.probability))),
        key(dropout.key),
        first_sequence(dropout.first_sequence),
        sequence_elements(elements_of_sequence) {}

  __device__ float factor(std::uint32_t bits) const {
    return core::to_unit_float(bits) >= probability ? scale : 0.0F;
  }

  // Of one element of one sequence (a global index).
  __device__ float one(std::int64_t sequence, std::int64_t element) const {
    const core::Philox4x32Block bits = core::stream_block(
        key, static_cast<std::uint64_t>(element / 4), static_cast<std::uint64_t>(sequence));
    return factor(bits[static_cast<std::size_t>(element % 4)]);
  }

  // Of elements [at, at + 8) of a [B*T, C] tensor, rows behind one another.
  __device__ void piece(std::int64_t at, float (&factors)[kLane]) const {
    const std::int64_t local = at / sequence_elements;
    const std::int64_t element = at - local * sequence_elements;
    const std::int64_t sequence = first_sequence + local;
    if (element % 4 == 0 && element + kLane <= sequence_elements) {
#pragma unroll
      for (int b = 0; b < kLane / 4; ++b) {
        const core::Philox4x32Block bits = core::stream_block(
            key, static_cast<std::uint64_t>(element / 4 + b), static_cast<std::uint64_t>(sequence));
#pragma unroll
        for (std::size_t i = 0; i < 4; ++i)
          factors[4 * static_cast<std::size_t>(b) + i] = factor(bits[i]);
      }
      return;
    }
    for (int i = 0; i < kLane; ++i) {
      const std::int64_t beyond = (element + i) / sequence_elements;
      factors[i] = one(sequence + beyond, element + i - beyond * sequence_elements);
    }
  }
};

}  // namespace lockstep::ops::cuda
