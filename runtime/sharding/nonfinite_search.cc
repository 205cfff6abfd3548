#include "runtime/sharding/nonfinite_search.h"

#include "runtime/step/steps_under_way.h"

namespace lockstep::runtime {

namespace {

std::size_t tensors_of(const BucketLayout& layout) {
  std::size_t tensors = 0;
  for (int b = 0; b < layout.size(); ++b)
    tensors += layout.segments(b, 0, layout[b].padded).size();
  return tensors;
}

}  // namespace

NonFiniteSearch::NonFiniteSearch(const BucketLayout& layout, std::int64_t rounds,
                                 ops::OpContext& context, core::MemoryTracker& memory)
    : context_(context),
      rounds_(rounds),
      counts_(context, static_cast<std::size_t>(rounds) * tensors_of(layout), memory,
              kStepsUnderWay) {
  for (int b = 0; b < layout.size(); ++b) {
    Tensors tensors;
    tensors.first = tensors_;
    for (const Segment& segment : layout.segments(b, 0, layout[b].padded)) {
      tensors.ranges.push_back({segment.bucket_begin, segment.count});
      tensors.parameters.push_back(segment.parameter);
    }
    tensors_ += tensors.ranges.size();
    buckets_.push_back(std::move(tensors));
  }
}

std::size_t NonFiniteSearch::bytes(const BucketLayout& layout, std::int64_t rounds) {
  return static_cast<std::size_t>(rounds) * tensors_of(layout) * sizeof(ops::NonFinite);
}

std::size_t NonFiniteSearch::index_of(std::int64_t round, int bucket) const {
  return static_cast<std::size_t>(round) * tensors_ +
         buckets_[static_cast<std::size_t>(bucket)].first;
}

void NonFiniteSearch::count(std::int64_t round, int bucket, core::ConstTensorView leaf) {
  ops::count_nonfinite_ranges(context_, leaf, buckets_[static_cast<std::size_t>(bucket)].ranges,
                              counts_.at(index_of(round, bucket)));
}

NonFiniteReport NonFiniteSearch::first(int mirror) const {
  for (std::int64_t round = 0; round < rounds_; ++round) {
    for (int b = static_cast<int>(buckets_.size()) - 1; b >= 0; --b) {
      const Tensors& tensors = buckets_[static_cast<std::size_t>(b)];
      for (std::size_t i = tensors.ranges.size(); i-- > 0;) {
        const ops::NonFinite& found = counts_.value(index_of(round, b) + i, mirror);
        if (found.total() > 0) return {found.inf, found.nan, b, tensors.parameters[i]};
      }
    }
  }
  return {};
}

}  // namespace lockstep::runtime
