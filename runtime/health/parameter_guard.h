#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/memory.h"
#include "models/parameter_table.h"
#include "ops/hash.h"
#include "ops/results.h"
#include "runtime/sharding/bucket_layout.h"
#include "runtime/sharding/model_state.h"

namespace lockstep::runtime {

// Watches that all ranks compute with the same parameters, and that nobody's memory changes under
// him.
//
// Every step each rank hashes (XXH3-64, compute type, without padding) each owner's slice of each
// bucket as it was used in this step, and keeps the hashes until the next verification, so that a
// flipped bit is found even when a later all-gather has mended it. The owner of a slice also knows
// the hash of what it published, right after it was written; if what it uses later differs, its own
// memory changed. On steps that verify, the digest of all kept hashes travels with the step report.
class ParameterGuard {
 public:
  // watches: whether anybody will ask; without it every call does nothing.
  ParameterGuard(const models::ParameterTable& table, const BucketLayout& layout, ModelState& state,
                 int rank, bool watches, core::MemoryTracker& memory);

  // mirror, here and below: where hashes are fetched to (ops::Results). They are there once
  // the context's work is done; a device is not waited for in between.

  // To be called when parameters have been updated: hashes this rank's own slices as published ...
  void published(int mirror);
  // ... and takes these hashes in, after collect() of the same step.
  void take_published(int mirror);
  // Both at once, when parameters have been set outside a step. Waits for a device.
  void publish();

  // To be called once a step, while the parameters of that step are still in place.
  void used(int mirror);
  // Takes the hashes of used() in.
  void collect(std::int64_t step, int mirror);

  // Digest of everything since the last clear(); equal on all ranks that used the same parameters.
  // Never 0.
  std::uint64_t digest() const;
  // The first step and bucket in which this rank's own slice was not what it had published; step 0:
  // none.
  std::int64_t contradicted_step() const { return contradicted_step_; }
  int contradicted_bucket() const { return contradicted_bucket_; }
  void clear();

  // For the ledger, as used(): XXH3-64 over the compute-type parameters in canonical order, without
  // padding, one per bucket. A split group gives one hash, as if it were a single bucket, so that
  // the ledger does not depend on the number of ranks.
  void used_buckets(int mirror);
  std::vector<std::uint64_t> bucket_hashes(int mirror) const;

  // Who is wrong, and where it began. Collective; to be called by all ranks when digests differ or
  // a rank contradicts itself.
  struct Verdict {
    std::vector<int> ranks;  // the minority; without one, the rank that contradicts what it
                             // published or the one that differs from the owner
    std::string detail;
  };
  Verdict localise(comm::Communicator& communicator) const;

 private:
  struct StepHashes {
    std::int64_t step = 0;
    std::vector<std::uint64_t> slices;  // [bucket * world_size + owner]
  };

  // Messages hashed together, and where their hashes are left.
  struct Hashes {
    Hashes(const std::vector<std::vector<ops::ByteRange>>& messages, ops::OpContext& context,
           core::MemoryTracker& memory);

    std::vector<std::uint64_t> taken(int mirror) const;

    ops::HashPlan plan;
    ops::Results<std::uint64_t> values;
  };

  void launch(Hashes& hashes, int mirror) const;

  const BucketLayout& layout_;
  ModelState& state_;
  int rank_;
  std::unique_ptr<Hashes> own_;           // by bucket, this rank's slice; null: nothing is watched
  std::unique_ptr<Hashes> slices_;        // [bucket * world_size + owner]
  std::unique_ptr<Hashes> groups_;        // by group
  std::vector<std::uint64_t> published_;  // by bucket, this rank's slice
  std::vector<StepHashes> history_;
  std::int64_t contradicted_step_ = 0;
  int contradicted_bucket_ = -1;
};

// What the guard's tables of a device take at most, what its hashes take, and its scratch.
struct GuardMemory {
  std::size_t tables = 0;
  std::size_t results = 0;
  std::size_t scratch = 0;
};
GuardMemory guard_memory(const models::ParameterTable& table, const BucketLayout& layout,
                         core::DType compute);

}  // namespace lockstep::runtime
