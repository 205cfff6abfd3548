#include "runtime/sharding/gradient_norm.h"

#include "runtime/step/steps_under_way.h"

namespace lockstep::runtime {

namespace {

// Where in a rank's shard of its bucket a segment lies.
ops::Range range_in_shard(const BucketLayout& layout, int bucket, int rank,
                          const Segment& segment) {
  return {segment.bucket_begin - rank * layout.shard_elements(bucket), segment.count};
}

std::size_t owned_segments(const BucketLayout& layout, int rank) {
  std::size_t segments = 0;
  for (int b = 0; b < layout.size(); ++b)
    segments += layout.owned_segments(b, rank).size();
  return segments;
}

}  // namespace

ShardNorm::ShardNorm(const models::ParameterTable& table, const BucketLayout& layout, int rank,
                     ops::OpContext& context, core::MemoryTracker& memory)
    : table_(table),
      context_(context),
      sums_(context, owned_segments(layout, rank), memory, kStepsUnderWay) {
  std::size_t next = 0;
  for (int b = 0; b < layout.size(); ++b) {
    Tensors tensors;
    tensors.first = next;
    for (const Segment& segment : layout.owned_segments(b, rank)) {
      tensors.ranges.push_back(range_in_shard(layout, b, rank, segment));
      tensors.parameters.push_back(segment.parameter);
    }
    next += tensors.ranges.size();
    buckets_.push_back(std::move(tensors));
  }
}

std::size_t ShardNorm::bytes(const BucketLayout& layout, int rank) {
  return owned_segments(layout, rank) * sizeof(ops::SumOfSquares);
}

void ShardNorm::measure(const GradientBuckets& gradients, int mirror) {
  std::vector<core::ConstTensorView> shards;
  for (std::size_t b = 0; b < buckets_.size(); ++b)
    shards.push_back(gradients.shard(static_cast<int>(b)));
  measure(shards, mirror);
}

void ShardNorm::measure(const std::vector<core::ConstTensorView>& shards, int mirror) {
  for (std::size_t b = 0; b < buckets_.size(); ++b) {
    if (buckets_[b].ranges.empty()) continue;
    ops::sums_of_squares(context_, shards[b], buckets_[b].ranges, sums_.at(buckets_[b].first));
  }
  sums_.fetch(mirror);
}

ops::ExactSum ShardNorm::total(int mirror) const {
  ops::ExactSum total;
  for (std::size_t i = 0; i < sums_.size(); ++i)
    total.merge(sums_.value(i, mirror).sum);
  return total;
}

std::vector<ops::ExactSum> ShardNorm::by_parameter(int mirror) const {
  std::vector<ops::ExactSum> sums(static_cast<std::size_t>(table_.size()));
  for (const Tensors& tensors : buckets_) {
    for (std::size_t i = 0; i < tensors.ranges.size(); ++i)
      sums[static_cast<std::size_t>(tensors.parameters[i])].merge(
          sums_.value(tensors.first + i, mirror).sum);
  }
  return sums;
}

std::vector<models::ParameterId> ShardNorm::parameters() const {
  std::vector<models::ParameterId> parameters;
  for (const Tensors& tensors : buckets_)
    parameters.insert(parameters.end(), tensors.parameters.begin(), tensors.parameters.end());
  return parameters;
}

NonFiniteReport ShardNorm::first_nonfinite(int mirror) const {
  for (std::size_t b = buckets_.size(); b-- > 0;) {
    const Tensors& tensors = buckets_[b];
    for (std::size_t i = tensors.ranges.size(); i-- > 0;) {
      const ops::NonFinite& found = sums_.value(tensors.first + i, mirror).nonfinite;
      if (found.total() > 0)
        return {found.inf, found.nan, static_cast<std::int32_t>(b), tensors.parameters[i]};
    }
  }
  return {};
}

}  // namespace lockstep::runtime
