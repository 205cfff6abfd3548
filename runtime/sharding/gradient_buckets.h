#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "comm/communicator.h"
#include "core/memory.h"
#include "models/model_io.h"
#include "ops/op_context.h"
#include "runtime/config/config.h"
#include "runtime/sharding/bucket_layout.h"
#include "runtime/sharding/nonfinite_search.h"
#include "runtime/step/step_report.h"

namespace lockstep::runtime {

// How gradients travel and what is kept of them.
struct GradientPlan {
  core::DType compute = core::DType::kF32;  // of a leaf: the gradient of one micro-batch
  core::DType wire = core::DType::kF32;     // parallel.reduce_type, resolved
  int zero_stage = 2;
  GradSync grad_sync = GradSync::kEveryRound;
  std::int64_t rounds = 1;  // accumulation rounds of a step
  bool overlap = true;      // false: nothing is computed while a bucket travels

  bool boundary() const { return grad_sync == GradSync::kBoundary; }
  bool keeps_full_gradient() const { return zero_stage == 0 || boundary(); }
};

// The life of a bucket's memory in one round of accumulation. Asserted at every change.
enum class BucketState : std::uint8_t {
  kFree,      // nothing in it; peers have read what was in it
  kFilling,   // backward is writing it
  kReady,     // whole; not yet launched
  kInFlight,  // its reduction is launched
  kReduced,   // this rank's shard of the sum is complete; peers may still be reading
};

// Receives each bucket of a step's last round when this rank's gradient of it is complete and before
// it is reduced. gradient: [padded] in the compute type; the hook may write it, in the order of the
// context's stream.
using BucketHook = std::function<void(std::int64_t step, const BucketPlacement& bucket,
                                      core::TensorView gradient)>;

// Takes the gradients of backward, bucket by bucket, and reduces them to the owner of each shard.
//
//   every_round: each micro-batch's bucket (a leaf) is reduced at once: the owner adds the leaves in
//                fp32, in rank order, round after round, hence from left to right by global
//                micro-batch index. Leaves live in a ring of slots (and a slot of its own for a tied
//                embedding), so that no full gradient exists (stages 1 and 2).
//   boundary:    each rank adds its leaves to a full fp32 gradient, which is reduced once, in the
//                last round.
//
// On a device the reduction sums in the type that travels, and a kernel of this rank adds the sum
// to the shard; everything is put on streams, and nothing waits for the device.
//
// With overlap a reduction is waited for when its slot is needed again, at the latest by
// finish_step(); without it where it is launched, in finish(). The bits are the same.
//
// All ranks launch the same buckets in the same order: the reverse of the layout. A bucket that
// backward did not write counts as zero.
class GradientBuckets : public models::GradientSink {
 public:
  GradientBuckets(const models::ParameterTable& table, const BucketLayout& layout,
                  const GradientPlan& plan, comm::Communicator& communicator,
                  ops::OpContext& context, BucketHook before_reduction,
                  core::MemoryTracker& memory);

  // A step is: begin_step; for each round begin_round, then backward; finish_step.
  void begin_step(std::int64_t step);
  void begin_round(std::int64_t round);
  void finish_step();  // waits until the aggregated shard is complete; stage 0: until every rank
                       // has the whole sum
  // Instead of the rest of a step that all ranks leave at the same place: waits for what travels.
  void abandon_step();

  // models::GradientSink
  const std::vector<models::BucketSpec>& buckets() const override { return layout_.specs(); }
  void begin(int bucket) override;
  core::TensorView gradient(int bucket, int piece) override;
  void finish(int bucket) override;

  // After finish_step: the aggregated gradient, fp32, of this rank's shard of a bucket [shard], and
  // of all elements that this rank updates (stage 0: the whole bucket [padded]).
  core::ConstTensorView shard(int bucket) const;
  core::ConstTensorView updated(int bucket) const;
  // The memory of updated(bucket), which nobody needs from the update of a step to the next step.
  core::TensorView free_between_steps(int bucket) const;

  // The first non-finite elements of this rank's own gradient in this step, before any reduction:
  // fetch_nonfinite() after finish_step(), own_nonfinite() once the context's work is done.
  // mirror: see ops::Results.
  void fetch_nonfinite(int mirror = 0) { nonfinite_.fetch(mirror); }
  NonFiniteReport own_nonfinite(int mirror = 0) const { return nonfinite_.first(mirror); }
  const NonFiniteSearch& own() const { return nonfinite_; }

  // What the constructor allocates, in bytes: the full gradient or shard, and the memory of buckets
  // on their way.
  static std::size_t gradient_bytes(const BucketLayout& layout, const GradientPlan& plan);
  static std::size_t bucket_bytes(const BucketLayout& layout, const GradientPlan& plan);

  // One to fill and one to travel; without overlap they are the same.
  static int ring_slots(const GradientPlan& plan) { return plan.overlap ? 2 : 1; }

 private:
  struct Slot {
    std::int64_t offset = 0;    // elements, in wire_ and leaf_
    std::int64_t capacity = 0;  // elements
    int bucket = -1;
    BucketState state = BucketState::kFree;
    comm::Work work;
    core::TensorView sum;    // on a device: where the reduction leaves this rank's part ...
    bool overwrite = false;  // ... and whether it is the first addend
  };

  void make_slots();
  void add_slot(std::int64_t offset, std::int64_t capacity);
  Slot& slot_for(int bucket);
  void advance(Slot& slot, BucketState from, BucketState to) const;
  void release(Slot& slot);
  core::TensorView leaf(const Slot& slot) const;
  core::TensorView wire(const Slot& slot) const;
  core::TensorView full(int bucket) const;         // fp32 [padded] of the full gradient
  core::TensorView accumulator(int bucket) const;  // fp32 [shard] of the aggregated gradient
  void submit_zeros_down_to(int bucket);
  void zero_unwritten(const Slot& slot);
  void reduce_leaf(Slot& slot);
  void add_to_full(Slot& slot);
  void reduce_full(Slot& slot);
  void launch(Slot& slot, core::TensorView sent, bool overwrite);
  void take_sum(Slot& slot);
  core::TensorView own_part(const Slot& slot, core::TensorView bucket) const;

  const models::ParameterTable& table_;
  const BucketLayout& layout_;
  GradientPlan plan_;
  comm::Communicator& communicator_;
  ops::OpContext& context_;
  BucketHook before_reduction_;

  comm::SharedBuffer wire_;  // slots in the wire type, when buckets travel from slots
  NonFiniteSearch nonfinite_;
  core::Buffer
      leaf_;  // slots in the compute type, when leaves are not written where they travel from
  comm::SharedBuffer full_;  // fp32 [flat]: stage 0 and boundary
  core::Buffer shard_;       // fp32 [shard total]: otherwise
  std::vector<Slot> slots_;  // the ring, then one for a tied embedding
  std::size_t ring_size_ = 0;
  std::size_t next_slot_ = 0;
  Slot* open_ = nullptr;       // between begin and finish
  std::vector<char> written_;  // pieces of the open bucket
  std::int64_t step_ = 0;
  std::int64_t round_ = 0;
  int expected_ = -1;  // the bucket that is next in backward order
};

}  // namespace lockstep::runtime
