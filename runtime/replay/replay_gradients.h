#pragma once

#include <cstdint>
#include <vector>

#include "core/memory.h"
#include "models/model_io.h"
#include "models/parameter_table.h"
#include "ops/exact_sum.h"
#include "ops/op_context.h"
#include "runtime/drills/fault_injector.h"
#include "runtime/replay/extent.h"
#include "runtime/replay/replay_bundle.h"
#include "runtime/sharding/bucket_layout.h"
#include "runtime/sharding/gradient_buckets.h"

namespace lockstep::runtime {

// The gradients of all ranks of a run, taken in and added up in one process, by the same additions
// in the same order as the run's reductions (docs/numerics.md), hence to the same bits. Written
// apart from GradientBuckets, so that one checks the other.
class ReplayGradients : public models::GradientSink {
 public:
  // layout: of the run's ranks. plan: of the run.
  ReplayGradients(const models::ParameterTable& table, const BucketLayout& layout,
                  const GradientPlan& plan, ops::OpContext& context, core::MemoryTracker& memory);

  // Before each backward; `faults` are those of `rank`. For every round and rank once; rounds of a
  // rank ascend; with every_round all ranks of a round come, in order, before the next round.
  void begin_micro_batch(std::int64_t step, std::int64_t round, int rank,
                         const FaultInjector& faults);
  // After the last backward.
  void finish_step();

  // models::GradientSink
  const std::vector<models::BucketSpec>& buckets() const override { return layout_.specs(); }
  void begin(int bucket) override;
  core::TensorView gradient(int bucket, int piece) override;
  void finish(int bucket) override;

  // Where the gradient of a tensor first was not finite.
  struct Place {
    std::int64_t round = 0;
    int rank = 0;
    models::ParameterId parameter = models::kNoParameter;
    std::int64_t element = 0;  // within the parameter
  };
  // Of one bucket, over all micro-batches, in the compute type, scaled by the loss scale.
  struct BucketExtent {
    Extent own;    // `first` is not used
    Place place;   // valid unless own.finite()
    Extent total;  // of the sum over all micro-batches; after finish_step()
  };
  const std::vector<BucketExtent>& extents() const { return extents_; }

  // As StepReport::own of a rank.
  const RecordedNonFinite& own_nonfinite(int rank) const {
    return own_[static_cast<std::size_t>(rank)];
  }
  // As StepReport::sum_of_squares of a rank. After finish_step().
  ops::ExactSum squares_of_shard(int rank) const;

 private:
  core::TensorView leaf(int bucket) const;
  core::TensorView partial(int bucket) const;
  core::TensorView total(int bucket) const;
  void look_at_leaf(int bucket);
  void add_to_total(int bucket, core::ConstTensorView values);

  const models::ParameterTable& table_;
  const BucketLayout& layout_;
  GradientPlan plan_;
  ops::OpContext& context_;

  core::Buffer leaf_;       // compute type, the largest bucket
  core::Buffer wire_;       // what travels, when it is of another type than what it is made from
  core::Buffer partial_;    // fp32 [flat]: one rank's sum over its rounds; boundary only
  core::Buffer total_;      // fp32 [flat]
  std::vector<char> seen_;  // buckets that total_ holds something of
  std::vector<BucketExtent> extents_;
  std::vector<RecordedNonFinite> own_;  // by rank
  std::int64_t step_ = 0;
  std::int64_t round_ = 0;
  int rank_ = 0;
  const FaultInjector* faults_ = nullptr;
};

}  // namespace lockstep::runtime
