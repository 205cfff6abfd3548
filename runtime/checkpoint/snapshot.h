#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/memory.h"
#include "models/parameter_table.h"
#include "runtime/sharding/model_state.h"

namespace lockstep::runtime {

// A copy of the model state as it is at a step boundary, from which a checkpoint is written while
// training changes the original. Allocated once and used for every checkpoint of a run.
//
// Rank 0 holds all master weights, because model.safetensors is one file of whole tensors in
// Hugging Face's layouts: slices of GPT-2's transposed matrices would be strided in it. Every rank
// holds optimizer state and averages of its own shard of each bucket, at every ZeRO stage.
class Snapshot {
 public:
  // states: ModelState::saved_states().
  Snapshot(const BucketLayout& layout, std::vector<int> states, int zero_stage, int rank,
           core::MemoryTracker& memory);

  // Collective: copies the state. The parameters' all-gathers are done (ModelState::finish_gather).
  void take(ModelState& model, comm::Communicator& communicator);

  // Rank 0 only: the master of a parameter, in canonical order.
  std::span<const float> master(const models::ParameterTable& table, models::ParameterId id) const;
  // State number states()[index] of a segment that BucketLayout::owned_segments gives for this rank.
  std::span<const float> state(int index, int bucket, const Segment& segment) const;

  const BucketLayout& layout() const { return layout_; }
  const std::vector<int>& states() const { return states_; }
  int rank() const { return rank_; }

  // What the constructor allocates on a rank, in region "checkpoint".
  static std::size_t bytes(const BucketLayout& layout, int state_tensors, int zero_stage, int rank);

 private:
  void take_masters(ModelState& model, comm::Communicator& communicator);

  const BucketLayout& layout_;
  std::vector<int> states_;
  int zero_stage_;
  int rank_;
  core::Buffer
      masters_;  // rank 0: the space of parameters; others: a bucket on its way through, if any
  core::Buffer values_;  // [states, shard_total]
};

}  // namespace lockstep::runtime
