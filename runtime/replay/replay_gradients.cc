#include "runtime/replay/replay_gradients.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "ops/accumulate.h"
#include "ops/gradient_stats.h"

namespace lockstep::runtime {

namespace {

constexpr core::DType kSumType = core::DType::kF32;

std::size_t bytes_of(std::int64_t elements, core::DType dtype) {
  return static_cast<std::size_t>(elements) * core::size_of(dtype);
}

std::int64_t largest_bucket(const BucketLayout& layout) {
  std::int64_t largest = 0;
  for (int b = 0; b < layout.size(); ++b)
    largest = std::max(largest, layout[b].padded);
  return largest;
}

core::ConstTensorView part(core::ConstTensorView bucket, const Segment& segment) {
  const auto* data =
      static_cast<const std::byte*>(bucket.raw()) + bytes_of(segment.bucket_begin, bucket.dtype());
  return {data, bucket.dtype(), core::Shape{segment.count}};
}

}  // namespace

ReplayGradients::ReplayGradients(const models::ParameterTable& table, const BucketLayout& layout,
                                 const GradientPlan& plan, ops::OpContext& context,
                                 core::MemoryTracker& memory)
    : table_(table),
      layout_(layout),
      plan_(plan),
      context_(context),
      leaf_(memory, "buckets", bytes_of(largest_bucket(layout), plan.compute)),
      wire_(memory, "buckets", bytes_of(largest_bucket(layout), plan.wire)),
      partial_(memory, "gradients",
               plan.boundary() ? bytes_of(layout.flat_elements(), kSumType) : 0),
      total_(memory, "gradients", bytes_of(layout.flat_elements(), kSumType)),
      seen_(static_cast<std::size_t>(layout.size())),
      extents_(seen_.size()),
      own_(static_cast<std::size_t>(layout.world_size())) {}

core::TensorView ReplayGradients::leaf(int bucket) const {
  return leaf_.view(plan_.compute, core::Shape{layout_[bucket].padded});
}

core::TensorView ReplayGradients::partial(int bucket) const {
  return partial_.view(kSumType, core::Shape{layout_[bucket].padded},
                       bytes_of(layout_[bucket].flat_offset, kSumType));
}

core::TensorView ReplayGradients::total(int bucket) const {
  return total_.view(kSumType, core::Shape{layout_[bucket].padded},
                     bytes_of(layout_[bucket].flat_offset, kSumType));
}

void ReplayGradients::begin_micro_batch(std::int64_t step, std::int64_t round, int rank,
                                        const FaultInjector& faults) {
  step_ = step;
  round_ = round;
  rank_ = rank;
  faults_ = &faults;
}

void ReplayGradients::begin(int bucket) {
  const core::TensorView values = leaf(bucket);
  std::memset(values.raw(), 0, values.bytes());  // padding, and pieces that backward leaves out
}

core::TensorView ReplayGradients::gradient(int bucket, int piece) {
  const BucketPlacement& placement = layout_[bucket];
  const auto index = static_cast<std::size_t>(piece);
  const models::ParameterPiece& spec = placement.spec.pieces[index];
  const core::Shape& shape = table_[spec.parameter].shape;
  auto* data = static_cast<std::byte*>(leaf(bucket).raw()) +
               bytes_of(placement.piece_offsets[index], plan_.compute);
  if (shape.rank() < 2) return {data, plan_.compute, shape};
  return {data, plan_.compute, core::Shape{spec.row_end - spec.row_begin, shape[1]}};
}

void ReplayGradients::finish(int bucket) {
  const bool last = round_ + 1 == plan_.rounds;
  if (last) faults_->overflow_bucket(step_, table_, layout_[bucket], leaf(bucket), context_);
  look_at_leaf(bucket);
  if (!plan_.boundary()) {
    add_to_total(bucket, leaf(bucket));
    return;
  }
  ops::accumulate(context_, leaf(bucket), round_ == 0, partial(bucket));
  if (last) add_to_total(bucket, partial(bucket));
}

// Backwards, as the run looks for the first tensor that is not finite.
void ReplayGradients::look_at_leaf(int bucket) {
  const core::TensorView values = leaf(bucket);
  BucketExtent& extent = extents_[static_cast<std::size_t>(bucket)];
  RecordedNonFinite& own = own_[static_cast<std::size_t>(rank_)];
  const std::vector<Segment> segments = layout_.segments(bucket, 0, values.elements());
  const bool first_of_rank = own.bucket.empty();
  for (auto segment = segments.rbegin(); segment != segments.rend(); ++segment) {
    const Extent found = extent_of(part(values, *segment));
    if (!found.finite()) {
      const std::string& tensor = table_[segment->parameter].name;
      if (first_of_rank && own.bucket.empty())
        own = {table_.group_name(layout_[bucket].spec.group), tensor, found.inf, found.nan};
      if (extent.own.finite())
        extent.place = {round_, rank_, segment->parameter, segment->parameter_begin + found.first};
    }
    extent.own.merge(found);
  }
}

// What a reduction adds: the values as they travel, in fp32, rank after rank.
void ReplayGradients::add_to_total(int bucket, core::ConstTensorView values) {
  char& seen = seen_[static_cast<std::size_t>(bucket)];
  core::ConstTensorView travels = values;
  if (values.dtype() != plan_.wire) {
    const core::TensorView wire = wire_.view(plan_.wire, values.shape());
    core::convert(values.dtype(), values.raw(), plan_.wire, wire.raw(),
                  static_cast<std::size_t>(values.elements()));
    travels = wire;
  }
  ops::accumulate(context_, travels, seen == 0, total(bucket));
  seen = 1;
}

void ReplayGradients::finish_step() {
  for (int b = 0; b < layout_.size(); ++b) {
    Extent& extent = extents_[static_cast<std::size_t>(b)].total;
    for (const Segment& segment : layout_.segments(b, 0, layout_[b].padded))
      extent.merge(extent_of(part(total(b), segment)));
  }
}

ops::ExactSum ReplayGradients::squares_of_shard(int rank) const {
  ops::ExactSum sum;
  for (int b = 0; b < layout_.size(); ++b) {
    for (const Segment& segment : layout_.owned_segments(b, rank)) {
      const ops::Range whole{0, segment.count};
      ops::SumOfSquares of_segment;
      ops::sums_of_squares(context_, part(total(b), segment), {&whole, 1}, &of_segment);
      sum.merge(of_segment.sum);
    }
  }
  return sum;
}

}  // namespace lockstep::runtime
