#include "runtime/step/gradient_norm.h"

#include "models/ops/gradient_stats.h"

namespace lockstep::runtime {

namespace {

// The part of a shard's values that a segment of its bucket covers.
core::ConstTensorView segment_values(const BucketLayout& layout, core::ConstTensorView shard,
                                     int bucket, int rank, const Segment& segment) {
  const std::int64_t begin = segment.bucket_begin - rank * layout.shard_elements(bucket);
  return {shard.data<float>() + begin, shard.dtype(), core::Shape{segment.count}};
}

}  // namespace

SquaredSums squared_sums(const models::ParameterTable& table, const BucketLayout& layout,
                         const GradientBuckets& gradients, int rank, bool by_parameter,
                         models::ops::OpContext& context) {
  SquaredSums sums;
  if (by_parameter) sums.by_parameter.resize(static_cast<std::size_t>(table.size()));
  std::vector<double> blocks;
  for (int b = 0; b < layout.size(); ++b) {
    const core::ConstTensorView shard = gradients.shard(b);
    for (const Segment& segment : layout.owned_segments(b, rank)) {
      const std::int64_t count =
          (segment.count + models::ops::kNormBlock - 1) / models::ops::kNormBlock;
      blocks.resize(static_cast<std::size_t>(count));
      models::ops::block_sums_of_squares(context, segment_values(layout, shard, b, rank, segment),
                                         blocks.data());
      sums.total.add_all(blocks);
      if (by_parameter) {
        sums.by_parameter[static_cast<std::size_t>(segment.parameter)].add_all(blocks);
      }
    }
  }
  return sums;
}

NonFiniteReport find_nonfinite_shard(const BucketLayout& layout, const GradientBuckets& gradients,
                                     int rank, models::ops::OpContext& context) {
  for (int b = layout.size() - 1; b >= 0; --b) {
    const core::ConstTensorView shard = gradients.shard(b);
    const std::vector<Segment> segments = layout.owned_segments(b, rank);
    for (auto segment = segments.rbegin(); segment != segments.rend(); ++segment) {
      const models::ops::NonFinite found =
          models::ops::count_nonfinite(context, segment_values(layout, shard, b, rank, *segment));
      if (found.total() > 0) return {found.inf, found.nan, b, segment->parameter};
    }
  }
  return {};
}

}  // namespace lockstep::runtime
