#pragma once

#include <vector>

#include "core/memory.h"
#include "ops/exact_sum.h"
#include "ops/gradient_stats.h"
#include "ops/op_context.h"
#include "ops/results.h"
#include "runtime/sharding/gradient_buckets.h"
#include "runtime/step/step_report.h"

namespace lockstep::runtime {

// The squares of this rank's shard of the aggregated, scaled gradient: summed in fp64 per block of
// 64 elements of the canonical space, the blocks exactly, so that adding up all ranks gives the
// same bits for every sharding. Padding never counts. With them what is not finite is counted.
class ShardNorm {
 public:
  ShardNorm(const models::ParameterTable& table, const BucketLayout& layout, int rank,
            ops::OpContext& context, core::MemoryTracker& memory);

  // Starts summing; the sums below are those of this call once the context's work is done. mirror:
  // see ops::Results.
  void measure(const GradientBuckets& gradients, int mirror = 0);
  // The same of other fp32 values of this rank's shards: one view for each bucket, [shard].
  void measure(const std::vector<core::ConstTensorView>& shards, int mirror = 0);

  ops::ExactSum total(int mirror = 0) const;
  std::vector<ops::ExactSum> by_parameter(int mirror = 0) const;  // zero where this rank
                                                                  // owns nothing
  // The first tensor of the shard, in backward order, with elements that are not finite: of the
  // last bucket, and of it the last tensor, that has any.
  NonFiniteReport first_nonfinite(int mirror = 0) const;

  // All sums of a step, where they lie, and of which parameter each of them is.
  const ops::SumOfSquares* sums() const { return sums_.at(); }
  std::int64_t sum_count() const { return static_cast<std::int64_t>(sums_.size()); }
  std::vector<models::ParameterId> parameters() const;

  static std::size_t bytes(const BucketLayout& layout, int rank);

 private:
  struct Tensors {
    std::vector<ops::Range> ranges;  // of the shard
    std::vector<models::ParameterId> parameters;
    std::size_t first = 0;  // of sums_
  };

  const models::ParameterTable& table_;
  ops::OpContext& context_;
  std::vector<Tensors> buckets_;
  ops::Results<ops::SumOfSquares> sums_;  // by owned segment
};

}  // namespace lockstep::runtime
