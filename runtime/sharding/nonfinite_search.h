#pragma once

#include <cstdint>
#include <vector>

#include "core/memory.h"
#include "ops/gradient_stats.h"
#include "ops/results.h"
#include "runtime/sharding/bucket_layout.h"
#include "runtime/step/step_report.h"

namespace lockstep::runtime {

// Counts what is not finite in this rank's own gradient, tensor by tensor and round by round, as
// backward finishes its buckets, and tells afterwards where it began. A device is not waited for
// until then.
class NonFiniteSearch {
 public:
  NonFiniteSearch(const BucketLayout& layout, std::int64_t rounds, ops::OpContext& context,
                  core::MemoryTracker& memory);

  // leaf: [padded] elements of the bucket.
  void count(std::int64_t round, int bucket, core::ConstTensorView leaf);

  // Starts bringing the counts to the host; first() is true to them once the context's work is
  // done: in the earliest round, the first such bucket in backward order, and in it the first such
  // tensor in backward order.
  // mirror: see ops::Results.
  void fetch(int mirror) { counts_.fetch(mirror); }
  NonFiniteReport first(int mirror) const;

  // All counts of a step, where they lie.
  const ops::NonFinite* counts() const { return counts_.at(); }
  std::int64_t count_of_counts() const { return static_cast<std::int64_t>(counts_.size()); }

  static std::size_t bytes(const BucketLayout& layout, std::int64_t rounds);

 private:
  struct Tensors {
    std::vector<ops::Range> ranges;
    std::vector<models::ParameterId> parameters;
    std::size_t first = 0;  // of a round's counts
  };

  std::size_t index_of(std::int64_t round, int bucket) const;

  ops::OpContext& context_;
  std::int64_t rounds_;
  std::vector<Tensors> buckets_;
  std::size_t tensors_ = 0;              // of all buckets
  ops::Results<ops::NonFinite> counts_;  // [rounds, tensors]
};

}  // namespace lockstep::runtime
