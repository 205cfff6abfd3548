#include "runtime/sharding/model_state.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "ops/transfer.h"

namespace lockstep::runtime {

namespace {

constexpr core::DType kMasterType = core::DType::kF32;

}  // namespace

ModelState::ModelState(const models::ParameterTable& table, const BucketLayout& layout,
                       core::DType compute, int zero_stage, int state_tensors, bool averages,
                       comm::Communicator& communicator, ops::OpContext& context,
                       core::MemoryTracker& memory)
    : table_(table),
      layout_(layout),
      compute_(compute),
      zero_stage_(zero_stage),
      communicator_(communicator),
      context_(context) {
  parameters_ = communicator.allocate(parameter_bytes(layout, compute), "parameters", memory,
                                      comm::BufferUse::kCopied);
  const std::int64_t owned = zero_stage == 0 ? layout.flat_elements() : layout.shard_total();
  const std::size_t owned_bytes = static_cast<std::size_t>(owned) * core::size_of(kMasterType);
  const core::DeviceRef device = context.device_ref();
  if (compute != kMasterType) master_ = core::Buffer(memory, "optimizer", owned_bytes, device);
  for (int i = 0; i < state_tensors; ++i) {
    states_.emplace_back(memory, "optimizer", owned_bytes, device);
  }
  if (averages) averages_ = core::Buffer(memory, "ema", owned_bytes, device);
  gathers_.resize(static_cast<std::size_t>(layout.size()));
  for (int b = 0; b < layout.size(); ++b)
    runs_.push_back(make_runs(b));
}

std::size_t ModelState::parameter_bytes(const BucketLayout& layout, core::DType compute) {
  return static_cast<std::size_t>(layout.parameter_elements()) * core::size_of(compute);
}

std::size_t ModelState::optimizer_bytes(const BucketLayout& layout, core::DType compute,
                                        int zero_stage, int state_tensors) {
  const std::int64_t owned = zero_stage == 0 ? layout.flat_elements() : layout.shard_total();
  const int tensors = state_tensors + (compute == kMasterType ? 0 : 1);
  return static_cast<std::size_t>(owned * tensors) * core::size_of(kMasterType);
}

std::size_t ModelState::average_bytes(const BucketLayout& layout, int zero_stage) {
  const std::int64_t owned = zero_stage == 0 ? layout.flat_elements() : layout.shard_total();
  return static_cast<std::size_t>(owned) * core::size_of(kMasterType);
}

std::vector<int> ModelState::saved_states() const {
  std::vector<int> numbers;
  for (int i = 0; i < state_tensors(); ++i)
    numbers.push_back(i);
  if (averages()) numbers.push_back(kAverageState);
  return numbers;
}

core::TensorView ModelState::bucket_parameters(int bucket) const {
  const auto offset = static_cast<std::size_t>(layout_[bucket].parameter_begin);
  return parameters_.view(compute_, core::Shape{layout_[bucket].padded},
                          offset * core::size_of(compute_));
}

core::TensorView ModelState::all_parameters() const {
  return parameters_.view(compute_, core::Shape{layout_.parameter_elements()});
}

core::ConstTensorView ModelState::parameter(models::ParameterId id) {
  for (int b = layout_.first_bucket(id); b <= layout_.last_bucket(id); ++b) {
    gathers_[static_cast<std::size_t>(b)].wait_output();
  }
  const auto offset = static_cast<std::size_t>(layout_.parameter_offset(id));
  return parameters_.view(compute_, table_[id].shape, offset * core::size_of(compute_));
}

std::int64_t ModelState::owned_begin(int bucket) const {
  return updates_everything() ? 0 : communicator_.rank() * layout_.shard_elements(bucket);
}

std::int64_t ModelState::owned_end(int bucket) const {
  return updates_everything() ? layout_[bucket].padded
                              : owned_begin(bucket) + layout_.shard_elements(bucket);
}

core::TensorView ModelState::in_owned(const core::Buffer& buffer, int bucket, std::int64_t begin,
                                      std::int64_t count) const {
  const std::int64_t base =
      updates_everything() ? layout_[bucket].flat_offset : layout_.shard_offset(bucket);
  const auto offset = static_cast<std::size_t>(base + begin - owned_begin(bucket));
  return buffer.view(kMasterType, core::Shape{count}, offset * core::size_of(kMasterType));
}

core::TensorView ModelState::master_range(int bucket, std::int64_t begin, std::int64_t count) {
  if (!master_.empty()) return in_owned(master_, bucket, begin, count);
  const auto offset = static_cast<std::size_t>(layout_[bucket].parameter_begin + begin);
  return parameters_.view(kMasterType, core::Shape{count}, offset * core::size_of(kMasterType));
}

core::TensorView ModelState::state_range(int state, int bucket, std::int64_t begin,
                                         std::int64_t count) {
  const core::Buffer& buffer =
      state == kAverageState ? averages_ : states_[static_cast<std::size_t>(state)];
  return in_owned(buffer, bucket, begin, count);
}

std::vector<OwnedRun> ModelState::make_runs(int bucket) {
  std::vector<OwnedRun> runs;
  const std::int64_t begin = owned_begin(bucket);
  for (const Segment& segment : layout_.segments(bucket, begin, owned_end(bucket))) {
    OwnedRun run;
    run.segment = segment;
    run.master = master_range(bucket, segment.bucket_begin, segment.count);
    for (int i = 0; i < state_tensors(); ++i) {
      run.states.push_back(state_range(i, bucket, segment.bucket_begin, segment.count));
    }
    if (averages())
      run.average = state_range(kAverageState, bucket, segment.bucket_begin, segment.count);
    if (!master_.empty()) {
      const auto offset =
          static_cast<std::size_t>(layout_[bucket].parameter_begin + segment.bucket_begin);
      run.parameter =
          parameters_.view(compute_, core::Shape{segment.count}, offset * core::size_of(compute_));
    }
    runs.push_back(std::move(run));
  }
  return runs;
}

void ModelState::set_parameter(models::ParameterId id, const float* values) {
  const auto elements = static_cast<std::size_t>(table_[id].elements());
  const auto offset = static_cast<std::size_t>(layout_.parameter_offset(id));
  const core::TensorView whole =
      parameters_.view(compute_, table_[id].shape, offset * core::size_of(compute_));
  staging_.resize(whole.bytes());
  core::convert(core::DType::kF32, values, compute_, staging_.data(), elements);
  ops::from_host(context_, staging_.data(), whole);
  for (int b = layout_.first_bucket(id); b <= layout_.last_bucket(id); ++b) {
    for (const OwnedRun& run : owned_runs(b)) {
      if (run.segment.parameter != id) continue;
      ops::from_host(context_, values + run.segment.parameter_begin, run.master);
    }
  }
}

void ModelState::read_frozen(models::ParameterId id, float* out) {
  const core::ConstTensorView values = parameter(id);
  staging_.resize(values.bytes());
  ops::to_host(context_, values, staging_.data());
  core::convert(compute_, staging_.data(), core::DType::kF32, out,
                static_cast<std::size_t>(values.elements()));
}

void ModelState::start_averages() {
  for (const std::vector<OwnedRun>& runs : runs_) {
    for (const OwnedRun& run : runs)
      ops::copy(context_, run.master, run.average);
  }
}

void ModelState::set_state(int state, models::ParameterId id, const float* values) {
  for (int b = layout_.first_bucket(id); b <= layout_.last_bucket(id); ++b) {
    for (const OwnedRun& run : owned_runs(b)) {
      if (run.segment.parameter != id) continue;
      const core::TensorView& target = run.states[static_cast<std::size_t>(state)];
      ops::from_host(context_, values + run.segment.parameter_begin, target);
    }
  }
}

void ModelState::gather() {
  if (updates_everything()) return;
  for (int b = 0; b < layout_.size(); ++b) {
    const core::TensorView whole = bucket_parameters(b);
    const std::int64_t shard = layout_.shard_elements(b);
    if (shard == 0) continue;  // frozen
    const std::int64_t begin = communicator_.rank() * shard;
    const auto* own = static_cast<const std::byte*>(whole.raw()) +
                      static_cast<std::size_t>(begin) * core::size_of(compute_);
    gathers_[static_cast<std::size_t>(b)] = communicator_.all_gather(
        {own, compute_, core::Shape{shard}, whole.device()}, whole, layout_[b].spec.name);
  }
}

void ModelState::finish_gather() {
  // The last one first: on a device's stream the others are over then.
  for (auto work = gathers_.rbegin(); work != gathers_.rend(); ++work)
    work->wait();
}

core::ConstTensorView ModelState::owned_values(int bucket, int state) {
  const std::int64_t begin = owned_begin(bucket);
  const std::int64_t count = owned_end(bucket) - begin;
  return state == kMasterState ? master_range(bucket, begin, count)
                               : state_range(state, bucket, begin, count);
}

void gather_owned(ModelState& model, int bucket, int state, comm::Communicator& communicator,
                  core::TensorView whole) {
  core::ConstTensorView own = model.owned_values(bucket, state);
  if (model.updates_everything()) {
    ops::to_host(model.context(), own, whole.raw());
    return;
  }
  if (!model.context().device_ref().on_cpu()) {
    auto* place = whole.data<float>() + model.owned_begin(bucket);
    ops::to_host(model.context(), own, place);
    own = {place, own.dtype(), own.shape()};
  }
  communicator.all_gather(own, whole, model.layout()[bucket].spec.name).wait();
}

StateCollector::StateCollector(ModelState& state, comm::Communicator& communicator,
                               core::MemoryTracker& memory)
    : state_(state), communicator_(communicator), memory_(memory) {}

const float* StateCollector::gathered_bucket(int bucket, int state) {
  if (bucket == bucket_ && state == which_) return static_cast<const float*>(values_.data());
  const std::int64_t padded = state_.layout()[bucket].padded;
  const std::size_t bytes = static_cast<std::size_t>(padded) * sizeof(float);
  if (values_.bytes() < bytes) values_ = core::Buffer(memory_, "checkpoint", bytes);
  const core::TensorView whole = values_.view(kMasterType, core::Shape{padded});
  gather_owned(state_, bucket, state, communicator_, whole);
  bucket_ = bucket;
  which_ = state;
  return whole.data<float>();
}

void StateCollector::collect(models::ParameterId id, int state, float* out) {
  const BucketLayout& layout = state_.layout();
  if (state_.is_frozen(id)) {
    if (state == kMasterState || state == kAverageState) return state_.read_frozen(id, out);
    std::fill_n(out, state_.elements(id), 0.0F);
    return;
  }
  for (int b = layout.first_bucket(id); b <= layout.last_bucket(id); ++b) {
    const float* values = gathered_bucket(b, state);
    for (const Segment& segment : layout.segments(b, 0, layout[b].padded)) {
      if (segment.parameter != id) continue;
      std::memcpy(out + segment.parameter_begin, values + segment.bucket_begin,
                  static_cast<std::size_t>(segment.count) * sizeof(float));
    }
  }
}

}  // namespace lockstep::runtime
