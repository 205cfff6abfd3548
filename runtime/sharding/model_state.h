#pragma once

#include <cstdint>
#include <vector>

#include "comm/communicator.h"
#include "core/memory.h"
#include "models/model_io.h"
#include "ops/op_context.h"
#include "ops/optimizer_update.h"
#include "runtime/sharding/bucket_layout.h"

namespace lockstep::runtime {

// In place of the number of an optimizer state.
inline constexpr int kMasterState = -1;
inline constexpr int kAverageState = -2;  // the moving average of the weights (ema)

// One run of elements of a bucket that this rank updates: all of one parameter.
struct OwnedRun {
  Segment segment;
  core::TensorView master;               // fp32 [count]
  std::vector<core::TensorView> states;  // fp32 [count] each
  core::TensorView average;              // fp32 [count]; empty unless there are averages
  core::TensorView
      parameter;  // compute type [count]; empty when the master is the parameter (fp32)

  core::TensorView state(int number) const {
    return number == kAverageState ? average : states[static_cast<std::size_t>(number)];
  }
};

// Parameters, master weights and optimizer state of one rank, sharded by ZeRO stage:
//   parameters  whole, in the compute type, on every rank (flat, padded, readable by the ranks of
//               the node)
//   master      fp32; of the elements this rank updates. With fp32 compute it *is* that part of the
//               parameters
//   states      fp32; of the elements this rank updates
// In stage 0 every rank updates all elements; in stages 1 and 2 its own shard of every bucket, and
// gather() brings the others'. Frozen tensors have neither masters nor state. All of it lies on the
// device of the context.
class ModelState : public models::ParameterSource {
 public:
  ModelState(const models::ParameterTable& table, const BucketLayout& layout, core::DType compute,
             int zero_stage, int state_tensors, bool averages, comm::Communicator& communicator,
             ops::OpContext& context, core::MemoryTracker& memory);

  // models::ParameterSource: waits for the all-gather of the parameter's buckets if one is in
  // flight.
  core::ConstTensorView parameter(models::ParameterId id) override;

  // Sets a parameter from canonical fp32 values (all of them, on every rank): compute copy, and
  // master where owned.
  void set_parameter(models::ParameterId id, const float* values);
  // Sets the owned part of optimizer state `state` of a parameter from canonical fp32 values.
  void set_state(int state, models::ParameterId id, const float* values);

  // The runs of bucket that this rank updates.
  const std::vector<OwnedRun>& owned_runs(int bucket) const {
    return runs_[static_cast<std::size_t>(bucket)];
  }
  std::int64_t owned_begin(int bucket) const;  // first element of bucket that this rank updates

  // Stages 1 and 2: starts bringing the updated parameters of every bucket from their owners, in
  // forward order; parameter() waits.
  void gather();
  void finish_gather();  // waits for all

  int state_tensors() const { return static_cast<int>(states_.size()); }
  bool averages() const { return averages_.bytes() > 0; }
  // The numbers of what a checkpoint keeps beside the masters.
  std::vector<int> saved_states() const;
  core::DType compute() const { return compute_; }
  bool updates_everything() const { return zero_stage_ == 0; }
  const BucketLayout& layout() const { return layout_; }
  core::TensorView bucket_parameters(int bucket) const;  // compute type [padded]
  core::TensorView all_parameters() const;               // compute type [parameter_elements]

  // The values of a frozen tensor in fp32, to memory of the host. In the compute type they have
  // their only copy, so that 16-bit training stores what it computes with.
  void read_frozen(models::ParameterId id, float* out);
  // Makes the averages equal to the masters.
  void start_averages();
  bool is_frozen(models::ParameterId id) const { return table_[id].frozen; }
  std::int64_t elements(models::ParameterId id) const { return table_[id].elements(); }

  // fp32 values of the elements of bucket that this rank updates, padding included: the master
  // (kMasterState), the average (kAverageState) or a state.
  core::ConstTensorView owned_values(int bucket, int state);

  ops::OpContext& context() const { return context_; }

  // Bytes that the constructor allocates, by region: what `lockstep plan` prints.
  static std::size_t parameter_bytes(const BucketLayout& layout, core::DType compute);
  static std::size_t optimizer_bytes(const BucketLayout& layout, core::DType compute,
                                     int zero_stage, int state_tensors);
  static std::size_t average_bytes(const BucketLayout& layout, int zero_stage);

 private:
  std::vector<OwnedRun> make_runs(int bucket);
  std::int64_t owned_end(int bucket) const;
  core::TensorView master_range(int bucket, std::int64_t begin, std::int64_t count);
  core::TensorView state_range(int state, int bucket, std::int64_t begin, std::int64_t count);
  core::TensorView in_owned(const core::Buffer& buffer, int bucket, std::int64_t begin,
                            std::int64_t count) const;

  const models::ParameterTable& table_;
  const BucketLayout& layout_;
  core::DType compute_;
  int zero_stage_;
  comm::Communicator& communicator_;
  ops::OpContext& context_;
  comm::SharedBuffer parameters_;
  core::Buffer master_;  // empty with fp32 compute
  std::vector<core::Buffer> states_;
  core::Buffer averages_;                    // as a state; empty without averages
  std::vector<comm::Work> gathers_;          // by bucket, in flight
  std::vector<std::vector<OwnedRun>> runs_;  // by bucket
  std::vector<std::byte> staging_;           // of set_parameter and read_frozen
};

// Collective: brings a bucket's fp32 masters (kMasterState) or a state together in memory of the host,
// whole: [padded]. In stage 0 nothing is exchanged.
void gather_owned(ModelState& model, int bucket, int state, comm::Communicator& communicator,
                  core::TensorView whole);

// Brings whole parameters and optimizer states together for a checkpoint, a bucket at a time. Valid
// while nothing is updated.
class StateCollector {
 public:
  StateCollector(ModelState& state, comm::Communicator& communicator, core::MemoryTracker& memory);

  // Writes the parameter's fp32 master (kMasterState) or state (zeros where it is frozen), in
  // canonical order, on every rank. Collective: all ranks call it for the same parameters in the same order (cheapest in
  // canonical order, one state after the other).
  void collect(models::ParameterId id, int state, float* out);

 private:
  const float* gathered_bucket(int bucket, int state);

  ModelState& state_;
  comm::Communicator& communicator_;
  core::MemoryTracker& memory_;
  core::Buffer values_;
  int bucket_ = -1;
  int which_ = -1;
};

}  // namespace lockstep::runtime
