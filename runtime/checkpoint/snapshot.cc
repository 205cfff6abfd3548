#include "runtime/checkpoint/snapshot.h"

#include <algorithm>
#include <utility>

#include "ops/transfer.h"

namespace lockstep::runtime {

namespace {

constexpr const char* kRegion = "checkpoint";

std::int64_t master_elements(const BucketLayout& layout, int zero_stage, int rank) {
  if (rank == 0) return layout.parameter_elements();
  if (zero_stage == 0) return 0;
  std::int64_t largest = 0;
  for (int b = 0; b < layout.size(); ++b)
    largest = std::max(largest, layout[b].padded);
  return largest;
}

std::size_t float_bytes(std::int64_t elements) {
  return static_cast<std::size_t>(elements) * sizeof(float);
}

}  // namespace

Snapshot::Snapshot(const BucketLayout& layout, std::vector<int> states, int zero_stage, int rank,
                   core::MemoryTracker& memory)
    : layout_(layout),
      states_(std::move(states)),
      zero_stage_(zero_stage),
      rank_(rank),
      masters_(memory, kRegion, float_bytes(master_elements(layout, zero_stage, rank))),
      values_(memory, kRegion,
              float_bytes(static_cast<std::int64_t>(states_.size()) * layout.shard_total())) {}

std::size_t Snapshot::bytes(const BucketLayout& layout, int state_tensors, int zero_stage,
                            int rank) {
  return float_bytes(master_elements(layout, zero_stage, rank) +
                     state_tensors * layout.shard_total());
}

void Snapshot::take(ModelState& model, comm::Communicator& communicator) {
  take_masters(model, communicator);
  auto* to = static_cast<float*>(values_.data());
  for (std::size_t s = 0; s < states_.size(); ++s) {
    for (int b = 0; b < layout_.size(); ++b) {
      const std::int64_t shard = layout_.shard_elements(b);
      const std::int64_t skipped = rank_ * shard - model.owned_begin(b);
      const core::ConstTensorView owned = model.owned_values(b, states_[s]);
      ops::to_host(
          model.context(),
          {owned.data<float>() + skipped, owned.dtype(), core::Shape{shard}, owned.device()},
          to + static_cast<std::int64_t>(s) * layout_.shard_total() + layout_.shard_offset(b));
    }
  }
}

void Snapshot::take_masters(ModelState& model, comm::Communicator& communicator) {
  for (int b = 0; b < layout_.size(); ++b) {
    if (zero_stage_ == 0 && rank_ != 0) continue;
    const std::int64_t place = rank_ == 0 ? layout_[b].parameter_begin : 0;
    if (layout_[b].padded == 0) continue;
    gather_owned(
        model, b, kMasterState, communicator,
        masters_.view(core::DType::kF32, core::Shape{layout_[b].padded}, float_bytes(place)));
  }
  if (rank_ != 0) return;
  for (int b = 0; b < layout_.size(); ++b) {
    for (const FrozenTensor& tensor : layout_[b].frozen) {
      model.read_frozen(tensor.parameter, static_cast<float*>(masters_.data()) +
                                              layout_.parameter_offset(tensor.parameter));
    }
  }
}

std::span<const float> Snapshot::master(const models::ParameterTable& table,
                                        models::ParameterId id) const {
  // The rows of a parameter that is split over buckets follow one another.
  return {static_cast<const float*>(masters_.data()) + layout_.parameter_offset(id),
          static_cast<std::size_t>(table[id].elements())};
}

std::span<const float> Snapshot::state(int index, int bucket, const Segment& segment) const {
  const std::int64_t in_shard = segment.bucket_begin - rank_ * layout_.shard_elements(bucket);
  return {static_cast<const float*>(values_.data()) + index * layout_.shard_total() +
              layout_.shard_offset(bucket) + in_shard,
          static_cast<std::size_t>(segment.count)};
}

}  // namespace lockstep::runtime
