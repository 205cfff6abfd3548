#pragma once

#include <vector>

#include "models/ops/exact_sum.h"
#include "models/ops/op_context.h"
#include "runtime/sharding/gradient_buckets.h"

namespace lockstep::runtime {

// The squares of this rank's shard of the aggregated, scaled gradient: summed in fp64 per block of
// 64 elements of the canonical space, the blocks exactly, so that adding up all ranks gives the
// same bits for every sharding. Padding never counts.
struct SquaredSums {
  models::ops::ExactSum total;
  std::vector<models::ops::ExactSum> by_parameter;  // filled when asked for
};
SquaredSums squared_sums(const models::ParameterTable& table, const BucketLayout& layout,
                         const GradientBuckets& gradients, int rank, bool by_parameter,
                         models::ops::OpContext& context);

// The first non-finite elements of this rank's shard of the aggregated gradient, in backward order.
// To be asked only when the sum of squares is not finite: no finite fp32 element makes it so.
NonFiniteReport find_nonfinite_shard(const BucketLayout& layout, const GradientBuckets& gradients,
                                     int rank, models::ops::OpContext& context);

}  // namespace lockstep::runtime
