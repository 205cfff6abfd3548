#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "models/model_config.h"
#include "ops/exact_sum.h"
#include "ops/op_context.h"

namespace lockstep::runtime {

// What attention's scores of one block looked like.
struct AttentionScores {
  double logit_max = 0.0;  // of scaled products that a position may see; valid where rows > 0
  ops::ExactSum entropy;  // of the softmax of each row, over the logarithm of its length: in [0, 1]
  std::int64_t rows = 0;  // with more than one position to see, by head

  void merge(const AttentionScores& other);
};

// Of one sequence. qk: [T, >= q_width + kv_width] on the CPU, the queries of all heads, then the keys,
// as attention reads them (normed and rotated). The scores are computed once more in fp32, which
// costs half an attention's forward of this sequence.
AttentionScores measure_attention(const ops::OpContext& context, const models::ModelConfig& config,
                                  int block, core::ConstTensorView qk);

}  // namespace lockstep::runtime
