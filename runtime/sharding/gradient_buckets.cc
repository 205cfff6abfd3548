#include "runtime/sharding/gradient_buckets.h"

#include <utility>

#include "core/check.h"
#include "ops/accumulate.h"
#include "ops/transfer.h"

namespace lockstep::runtime {

namespace {

constexpr core::DType kSumType = core::DType::kF32;

// Whether buckets travel from slots (and not from the full gradient itself).
bool travels_from_slots(const GradientPlan& plan) {
  return !plan.boundary() || plan.wire != kSumType;
}

// Whether leaves need memory of their own: they are not written in place into what travels or
// accumulates.
bool needs_leaf_slots(const GradientPlan& plan) {
  if (plan.boundary()) return plan.rounds > 1 || plan.compute != kSumType;
  return plan.compute != plan.wire;
}

std::int64_t slot_elements(const BucketLayout& layout, const GradientPlan& plan) {
  return GradientBuckets::ring_slots(plan) * layout.largest_ring_bucket() +
         layout.tied_bucket_elements();
}

std::size_t bytes_of(std::int64_t elements, core::DType dtype) {
  return static_cast<std::size_t>(elements) * core::size_of(dtype);
}

}  // namespace

std::size_t GradientBuckets::gradient_bytes(const BucketLayout& layout, const GradientPlan& plan) {
  return bytes_of(plan.keeps_full_gradient() ? layout.flat_elements() : layout.shard_total(),
                  kSumType);
}

std::size_t GradientBuckets::bucket_bytes(const BucketLayout& layout, const GradientPlan& plan) {
  const std::int64_t elements = slot_elements(layout, plan);
  return (travels_from_slots(plan) ? bytes_of(elements, plan.wire) : 0) +
         (needs_leaf_slots(plan) ? bytes_of(elements, plan.compute) : 0);
}

GradientBuckets::GradientBuckets(const models::ParameterTable& table, const BucketLayout& layout,
                                 const GradientPlan& plan, comm::Communicator& communicator,
                                 ops::OpContext& context, BucketHook before_reduction,
                                 core::MemoryTracker& memory)
    : table_(table),
      layout_(layout),
      plan_(plan),
      communicator_(communicator),
      context_(context),
      before_reduction_(std::move(before_reduction)),
      nonfinite_(layout, plan.rounds, context, memory) {
  const std::int64_t elements = slot_elements(layout, plan);
  if (travels_from_slots(plan)) {
    wire_ = communicator.allocate(bytes_of(elements, plan.wire), "buckets", memory);
  }
  if (needs_leaf_slots(plan)) {
    leaf_ = core::Buffer(memory, "buckets", bytes_of(elements, plan.compute), context.device_ref());
  }
  if (plan.keeps_full_gradient()) {
    full_ = communicator.allocate(gradient_bytes(layout, plan), "gradients", memory);
  } else {
    shard_ = core::Buffer(memory, "gradients", gradient_bytes(layout, plan), context.device_ref());
  }
  make_slots();
}

void GradientBuckets::make_slots() {
  const std::int64_t size = layout_.largest_ring_bucket();
  std::int64_t offset = 0;
  for (int i = 0; size > 0 && i < ring_slots(plan_); ++i) {
    add_slot(offset, size);
    offset += size;
  }
  ring_size_ = slots_.size();
  if (layout_.tied_bucket_elements() > 0) {
    add_slot(offset, layout_.tied_bucket_elements());
  }
}

void GradientBuckets::add_slot(std::int64_t offset, std::int64_t capacity) {
  Slot slot;
  slot.offset = offset;
  slot.capacity = capacity;
  slots_.push_back(std::move(slot));
}

void GradientBuckets::begin_step(std::int64_t step) {
  step_ = step;
}

void GradientBuckets::begin_round(std::int64_t round) {
  submit_zeros_down_to(-1);
  round_ = round;
  expected_ = layout_.size() - 1;
}

GradientBuckets::Slot& GradientBuckets::slot_for(int bucket) {
  if (layout_[bucket].holds_tied_table) {
    release(slots_.back());
    return slots_.back();
  }
  Slot& slot = slots_[next_slot_];
  next_slot_ = (next_slot_ + 1) % ring_size_;
  release(slot);
  return slot;
}

void GradientBuckets::advance(Slot& slot, BucketState from, BucketState to) const {
  LOCKSTEP_CHECK(slot.state == from, "bucket {} is in state {}, expected {} before {}", slot.bucket,
                 static_cast<int>(slot.state), static_cast<int>(from), static_cast<int>(to));
  slot.state = to;
}

// Refilling needs both: this rank's sum is complete, and every peer has read what lies in the slot.
void GradientBuckets::release(Slot& slot) {
  if (slot.state == BucketState::kInFlight) {
    slot.work.wait_output();
    take_sum(slot);
    advance(slot, BucketState::kInFlight, BucketState::kReduced);
  }
  if (slot.state == BucketState::kReduced) {
    slot.work.wait_input();
    advance(slot, BucketState::kReduced, BucketState::kFree);
  }
}

core::TensorView GradientBuckets::full(int bucket) const {
  return full_.view(kSumType, core::Shape{layout_[bucket].padded},
                    bytes_of(layout_[bucket].flat_offset, kSumType));
}

core::TensorView GradientBuckets::accumulator(int bucket) const {
  const std::int64_t shard = layout_.shard_elements(bucket);
  if (!plan_.keeps_full_gradient()) {
    return shard_.view(kSumType, core::Shape{shard},
                       bytes_of(layout_.shard_offset(bucket), kSumType));
  }
  const std::int64_t begin = layout_[bucket].flat_offset + communicator_.rank() * shard;
  return full_.view(kSumType, core::Shape{shard}, bytes_of(begin, kSumType));
}

core::TensorView GradientBuckets::wire(const Slot& slot) const {
  return wire_.view(plan_.wire, core::Shape{layout_[slot.bucket].padded},
                    bytes_of(slot.offset, plan_.wire));
}

core::TensorView GradientBuckets::leaf(const Slot& slot) const {
  const bool first_of_full = plan_.boundary() && round_ == 0 && plan_.compute == kSumType;
  if (first_of_full) return full(slot.bucket);
  if (!needs_leaf_slots(plan_)) return wire(slot);
  return leaf_.view(plan_.compute, core::Shape{layout_[slot.bucket].padded},
                    bytes_of(slot.offset, plan_.compute));
}

void GradientBuckets::begin(int bucket) {
  LOCKSTEP_CHECK(open_ == nullptr, "bucket {} begun while {} is open", bucket,
                 open_ == nullptr ? -1 : open_->bucket);
  LOCKSTEP_CHECK(bucket <= expected_, "bucket {} comes after {} in backward order", bucket,
                 expected_);
  submit_zeros_down_to(bucket);
  Slot& slot = slot_for(bucket);
  slot.bucket = bucket;
  advance(slot, BucketState::kFree, BucketState::kFilling);
  written_.assign(layout_[bucket].spec.pieces.size(), 0);
  open_ = &slot;
}

core::TensorView GradientBuckets::gradient(int bucket, int piece) {
  LOCKSTEP_CHECK(open_ != nullptr && open_->bucket == bucket, "bucket {} is not open", bucket);
  const BucketPlacement& placement = layout_[bucket];
  const auto index = static_cast<std::size_t>(piece);
  const models::ParameterPiece& spec = placement.spec.pieces[index];
  const core::Shape& shape = table_[spec.parameter].shape;
  written_[index] = 1;
  const core::TensorView whole = leaf(*open_);
  auto* data = static_cast<std::byte*>(whole.raw()) +
               bytes_of(placement.piece_offsets[index], plan_.compute);
  if (shape.rank() < 2) return {data, plan_.compute, shape, whole.device()};
  return {data, plan_.compute, core::Shape{spec.row_end - spec.row_begin, shape[1]},
          whole.device()};
}

// A parameter without gradient counts as zero, so that every rank launches the same buckets.
void GradientBuckets::submit_zeros_down_to(int bucket) {
  while (expected_ > bucket) {
    const int skipped = expected_;
    expected_ = skipped - 1;
    if (layout_[skipped].padded == 0) continue;  // frozen
    Slot& slot = slot_for(skipped);
    slot.bucket = skipped;
    advance(slot, BucketState::kFree, BucketState::kFilling);
    written_.assign(layout_[skipped].spec.pieces.size(), 0);
    open_ = &slot;
    finish(skipped);
  }
}

void GradientBuckets::zero_unwritten(const Slot& slot) {
  const int bucket = slot.bucket;
  for (std::size_t i = 0; i < written_.size(); ++i) {
    if (written_[i] != 0) continue;
    ops::set_zero(context_, gradient(bucket, static_cast<int>(i)));
  }
}

void GradientBuckets::finish(int bucket) {
  LOCKSTEP_CHECK(open_ != nullptr && open_->bucket == bucket, "bucket {} is not open", bucket);
  Slot& slot = *open_;
  zero_unwritten(slot);
  open_ = nullptr;
  expected_ = bucket - 1;
  if (before_reduction_ && round_ + 1 == plan_.rounds)
    before_reduction_(step_, layout_[bucket], leaf(slot));
  nonfinite_.count(round_, bucket, leaf(slot));
  advance(slot, BucketState::kFilling, BucketState::kReady);
  if (plan_.boundary()) {
    add_to_full(slot);
    reduce_full(slot);
  } else {
    reduce_leaf(slot);
  }
  if (plan_.overlap) {
    communicator_.progress();
  } else {
    release(slot);
  }
}

core::TensorView GradientBuckets::own_part(const Slot& slot, core::TensorView bucket) const {
  const std::int64_t shard = layout_.shard_elements(slot.bucket);
  auto* data = static_cast<std::byte*>(bucket.raw()) +
               bytes_of(communicator_.rank() * shard, bucket.dtype());
  return {data, bucket.dtype(), core::Shape{shard}, bucket.device()};
}

void GradientBuckets::launch(Slot& slot, core::TensorView sent, bool overwrite) {
  const bool on_cpu = context_.device_ref().on_cpu();
  // On a device the sum takes the place of this rank's part of what it sent.
  const core::TensorView sum = on_cpu ? accumulator(slot.bucket) : own_part(slot, sent);
  const bool replaces = overwrite || !on_cpu;
  slot.work = communicator_.reduce_scatter(
      sent, sum, replaces ? comm::Output::kOverwrite : comm::Output::kAccumulate,
      layout_[slot.bucket].spec.name);
  slot.sum = on_cpu ? core::TensorView{} : sum;
  slot.overwrite = overwrite;
  advance(slot, BucketState::kReady, BucketState::kInFlight);
}

// Adds what the reduction left to the shard, unless it was summed there already.
void GradientBuckets::take_sum(Slot& slot) {
  if (slot.sum.empty()) return;
  const core::TensorView shard = accumulator(slot.bucket);
  if (slot.sum.raw() != shard.raw()) ops::accumulate(context_, slot.sum, slot.overwrite, shard);
  slot.sum = {};
}

void GradientBuckets::reduce_leaf(Slot& slot) {
  const core::TensorView values = leaf(slot);
  if (plan_.compute != plan_.wire) ops::cast(context_, values, wire(slot));
  launch(slot, wire(slot), round_ == 0);
}

void GradientBuckets::add_to_full(Slot& slot) {
  const core::TensorView values = leaf(slot);
  const core::TensorView sum = full(slot.bucket);
  if (values.raw() == sum.raw()) return;
  ops::accumulate(context_, values, round_ == 0, sum);
}

void GradientBuckets::reduce_full(Slot& slot) {
  if (round_ + 1 != plan_.rounds) {
    advance(slot, BucketState::kReady, BucketState::kFree);
    return;
  }
  const core::TensorView sum = full(slot.bucket);
  if (plan_.wire == kSumType) {
    launch(slot, sum, true);
    return;
  }
  ops::cast(context_, sum, wire(slot));
  launch(slot, wire(slot), true);
}

void GradientBuckets::finish_step() {
  submit_zeros_down_to(-1);
  for (Slot& slot : slots_)
    release(slot);
  if (plan_.zero_stage != 0) return;
  std::vector<comm::Work> gathers;
  for (int b = layout_.size() - 1; b >= 0; --b) {
    if (layout_[b].padded == 0) continue;
    gathers.push_back(communicator_.all_gather(accumulator(b), full(b), layout_[b].spec.name));
  }
  // The last one first: on a device's stream the others are over then.
  for (auto work = gathers.rbegin(); work != gathers.rend(); ++work)
    work->wait();
}

void GradientBuckets::abandon_step() {
  if (open_ != nullptr) {
    advance(*open_, BucketState::kFilling, BucketState::kFree);
    open_ = nullptr;
  }
  for (Slot& slot : slots_)
    release(slot);
  expected_ = -1;
}

core::ConstTensorView GradientBuckets::shard(int bucket) const {
  return accumulator(bucket);
}

core::TensorView GradientBuckets::free_between_steps(int bucket) const {
  return plan_.zero_stage == 0 ? full(bucket) : accumulator(bucket);
}

core::ConstTensorView GradientBuckets::updated(int bucket) const {
  return plan_.zero_stage == 0 ? full(bucket) : accumulator(bucket);
}

}  // namespace lockstep::runtime
