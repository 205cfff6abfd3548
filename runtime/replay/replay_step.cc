#include "runtime/replay/replay_step.h"

#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <limits>
#include <memory>

#include "models/transformer.h"
#include "runtime/checkpoint/safetensors.h"
#include "runtime/config/tensor_rules.h"
#include "runtime/drills/fault_injector.h"
#include "runtime/plan/run_plan.h"
#include "runtime/replay/replay_gradients.h"

namespace lockstep::runtime {

namespace {

const StoredTensor& expect(const SafetensorsFile& file, const std::string& name, core::DType dtype,
                           const std::vector<std::int64_t>& shape) {
  const StoredTensor* tensor = file.find(name);
  if (tensor == nullptr) file.fail("expected a tensor " + name + ", found none");
  if (tensor->dtype != dtype || tensor->shape != shape) {
    file.fail(fmt::format("{}: expected {} {}, found {} {}", name, core::name_of(dtype),
                          shape_text(shape), tensor->stored_type, shape_text(tensor->shape)));
  }
  return *tensor;
}

// The parameters of a bundle, as the model reads them.
class ReplayWeights : public models::ParameterSource {
 public:
  ReplayWeights(const std::string& path, const models::ParameterTable& table, core::DType compute,
                core::MemoryTracker& memory)
      : table_(table), compute_(compute) {
    const SafetensorsFile file(path);
    std::size_t bytes = 0;
    for (const models::ParameterSpec& spec : table.specs()) {
      offsets_.push_back(bytes);
      bytes += static_cast<std::size_t>((spec.elements() + 63) / 64 * 64) * core::size_of(compute);
    }
    values_ = core::Buffer(memory, "parameters", bytes);
    for (models::ParameterId id = 0; id < table.size(); ++id) {
      std::vector<std::int64_t> shape;
      for (int i = 0; i < table[id].shape.rank(); ++i)
        shape.push_back(table[id].shape[i]);
      const StoredTensor& stored = expect(file, table[id].name, compute, shape);
      file.read_stored(stored, view(id).raw());
    }
  }

  core::ConstTensorView parameter(models::ParameterId id) override { return view(id); }

 private:
  core::TensorView view(models::ParameterId id) const {
    return values_.view(compute_, table_[id].shape, offsets_[static_cast<std::size_t>(id)]);
  }

  const models::ParameterTable& table_;
  core::DType compute_;
  std::vector<std::size_t> offsets_;
  core::Buffer values_;
};

// The sequences of a bundle: one row of ids a sequence, in global order.
std::vector<std::int32_t> read_ids(const SafetensorsFile& file, const std::string& name,
                                   const Config& config) {
  const std::vector<std::int64_t> shape{config.batch.global, config.model.context};
  const StoredTensor& stored = expect(file, name, core::DType::kI32, shape);
  std::vector<std::int32_t> ids(stored.elements);
  file.read_stored(stored, ids.data());
  return ids;
}

// What one rank finds out in a step.
struct RankSums {
  ops::ExactSum loss;
  std::int64_t counted = 0;
  std::int64_t terms = 0;
  std::int64_t nonfinite_losses = 0;
  std::int64_t nonfinite_layer = 0;
};

class StepReplay {
 public:
  StepReplay(const ReplayBundle& bundle, int threads, core::MemoryTracker& memory,
             core::Logger& log);
  ReplayResult run();

 private:
  void run_micro_batch(std::int64_t round, int rank);
  models::MicroBatch micro_batch(std::int64_t round, int rank) const;
  void see_activation(const models::ActivationView& activation);
  ReplayExtent& layer_of(int layer);
  void report_weights();
  void report_gradients();
  void compare();
  void compare_rank(int rank);
  void add_number(const std::string& name, double recorded, double replayed);

  const ReplayRecord& record_;
  const Config& config_;
  models::ParameterTable table_;
  int ranks_;
  BucketLayout layout_;
  GradientPlan plan_;
  ops::OpContext context_;
  ReplayWeights weights_;
  ReplayGradients gradients_;
  models::Transformer model_;
  std::vector<FaultInjector> faults_;  // by rank
  std::vector<std::int32_t> inputs_;   // [global, context]
  std::vector<std::int32_t> targets_;  // [global, context]
  std::vector<RankSums> sums_;         // by rank
  std::int64_t round_ = 0;
  int rank_ = 0;
  ReplayResult result_;
};

StepReplay::StepReplay(const ReplayBundle& bundle, int threads, core::MemoryTracker& memory,
                       core::Logger& log)
    : record_(bundle.record),
      config_(bundle.config),
      table_(parameter_table(config_)),
      ranks_(record_.world_size()),
      layout_(bucket_layout(config_, table_, ranks_)),
      plan_(gradient_plan(config_, ranks_)),
      context_(threads, memory),
      weights_(bundle.directory + "/" + kReplayWeightsFile, table_, config_.precision.compute,
               memory),
      gradients_(table_, layout_, plan_, context_, memory),
      model_(config_.model, table_, config_.precision.compute, config_.batch.micro,
             config_.run.seed, context_, memory),
      sums_(static_cast<std::size_t>(ranks_)) {
  const SafetensorsFile batch(bundle.directory + "/" + kReplayBatchFile);
  inputs_ = read_ids(batch, "inputs", config_);
  targets_ = read_ids(batch, "targets", config_);
  for (int rank = 0; rank < ranks_; ++rank)
    faults_.emplace_back(config_.fault, rank, log);
  for (int layer = -1; layer <= static_cast<int>(config_.model.layers); ++layer)
    result_.activations.push_back({table_.group_name(layer + 1), {}, {}});
  model_.observe([this](const models::ActivationView& activation) { see_activation(activation); });
}

ReplayExtent& StepReplay::layer_of(int layer) {
  return result_.activations[static_cast<std::size_t>(layer + 1)];
}

void StepReplay::see_activation(const models::ActivationView& activation) {
  ReplayExtent& layer = layer_of(activation.layer);
  const Extent found = extent_of(activation.values);
  if (!found.finite() && layer.extent.finite()) {
    const std::int64_t row = found.first / activation.values.cols();
    const std::int64_t micro_batch = round_ * ranks_ + rank_;
    layer.place.rank = rank_;
    layer.place.micro_batch = micro_batch;
    layer.place.tensor = activation.name;
    layer.place.sequence = micro_batch * config_.batch.micro + row / config_.model.context;
    layer.place.position = row % config_.model.context;
    layer.place.element = found.first % activation.values.cols();
  }
  layer.extent.merge(found);
}

models::MicroBatch StepReplay::micro_batch(std::int64_t round, int rank) const {
  const std::int64_t index = round * ranks_ + rank;
  const auto ids = static_cast<std::size_t>(config_.batch.micro * config_.model.context);
  const std::size_t begin = static_cast<std::size_t>(index) * ids;
  models::MicroBatch batch;
  batch.sequences = config_.batch.micro;
  batch.length = config_.model.context;
  batch.step = record_.step - 1;
  batch.first_sequence = index * config_.batch.micro;
  batch.inputs = std::span(inputs_).subspan(begin, ids);
  batch.targets = std::span(targets_).subspan(begin, ids);
  if (round + 1 == plan_.rounds)
    batch.poison_block = faults_[static_cast<std::size_t>(rank)].poisoned_block(record_.step);
  return batch;
}

void StepReplay::run_micro_batch(std::int64_t round, int rank) {
  round_ = round;
  rank_ = rank;
  ops::LossOptions options = loss_options(config_);
  options.gradient_weight = static_cast<float>(record_.loss_scale / loss_divisor(config_));
  const ops::LossSums losses = model_.forward(micro_batch(round, rank), options, weights_);
  RankSums& sums = sums_[static_cast<std::size_t>(rank)];
  sums.loss.add(losses.optimised);
  sums.counted += losses.counted;
  sums.terms += losses.terms;
  if (!std::isfinite(losses.optimised)) {
    if (sums.nonfinite_losses == 0) sums.nonfinite_layer = losses.nonfinite_layer;
    sums.nonfinite_losses += 1;
  }
  gradients_.begin_micro_batch(record_.step, round, rank, faults_[static_cast<std::size_t>(rank)]);
  model_.backward(weights_, gradients_);
}

ReplayResult StepReplay::run() {
  report_weights();
  if (plan_.boundary()) {  // each rank adds up its rounds first
    for (int rank = 0; rank < ranks_; ++rank) {
      for (std::int64_t round = 0; round < plan_.rounds; ++round)
        run_micro_batch(round, rank);
    }
  } else {
    for (std::int64_t round = 0; round < plan_.rounds; ++round) {
      for (int rank = 0; rank < ranks_; ++rank)
        run_micro_batch(round, rank);
    }
  }
  gradients_.finish_step();
  report_gradients();
  compare();
  return std::move(result_);
}

void StepReplay::report_weights() {
  for (models::GroupIndex group = 0; group < table_.groups(); ++group) {
    ReplayExtent layer{table_.group_name(group), {}, {}};
    for (const models::ParameterId id : table_.in_group(group)) {
      const Extent found = extent_of(weights_.parameter(id));
      if (!found.finite() && layer.extent.finite()) {
        layer.place.tensor = table_[id].name;
        layer.place.element = found.first;
      }
      layer.extent.merge(found);
    }
    result_.weights.push_back(std::move(layer));
  }
}

void StepReplay::report_gradients() {
  for (int b = layout_.size() - 1; b >= 0; --b) {
    const ReplayGradients::BucketExtent& bucket = gradients_.extents()[static_cast<std::size_t>(b)];
    const std::string& name = layout_[b].spec.name;
    ReplayExtent own{name, bucket.own, {}};
    if (!bucket.own.finite()) {
      own.place.rank = bucket.place.rank;
      own.place.micro_batch = bucket.place.round * ranks_ + bucket.place.rank;
      own.place.tensor = table_[bucket.place.parameter].name;
      own.place.element = bucket.place.element;
    }
    result_.gradients.push_back(std::move(own));
    result_.sums.push_back({name, bucket.total, {}});
  }
}

void StepReplay::add_number(const std::string& name, double recorded, double replayed) {
  if (!std::isfinite(replayed)) replayed = std::numeric_limits<double>::quiet_NaN();
  result_.numbers.push_back({name, recorded, replayed});
}

void StepReplay::compare() {
  ops::ExactSum loss;
  ops::ExactSum squares;
  std::int64_t counted = 0;
  std::int64_t terms = 0;
  std::int64_t nonfinite_losses = 0;
  for (int rank = 0; rank < ranks_; ++rank) {
    const RankSums& sums = sums_[static_cast<std::size_t>(rank)];
    loss.merge(sums.loss);
    squares.merge(gradients_.squares_of_shard(rank));
    counted += sums.counted;
    terms += sums.terms;
    nonfinite_losses += sums.nonfinite_losses;
  }
  const auto n = static_cast<double>(terms);
  const double unscale = terms > 0 ? loss_divisor(config_) / (n * record_.loss_scale) : 0.0;
  const double mean = nonfinite_losses > 0 ? std::numeric_limits<double>::quiet_NaN()
                      : terms > 0          ? loss.value() / n
                                           : 0.0;
  add_number("loss", record_.loss, mean);
  add_number("grad_norm", record_.grad_norm,
             terms > 0 ? std::sqrt(squares.value()) * unscale : 0.0);
  add_number("tokens", static_cast<double>(record_.counted), static_cast<double>(counted));
  for (int rank = 0; rank < ranks_; ++rank)
    compare_rank(rank);
  const std::string build = replay_build();
  result_.same_build = build == record_.build;
  if (config_.backend.device == DeviceChoice::kCuda)
    result_.tolerance = config_.precision.compute == core::DType::kF32 ? 1e-3 : 2e-2;
  result_.must_be_equal = result_.same_build && config_.run.reproducible == Reproducible::kRanks;
}

void StepReplay::compare_rank(int rank) {
  const auto index = static_cast<std::size_t>(rank);
  const RecordedRank& recorded = record_.ranks[index];
  const RankSums& sums = sums_[index];
  add_number(fmt::format("rank {} loss_sum", rank), recorded.loss_sum, sums.loss.value());
  add_number(fmt::format("rank {} sum_of_squares", rank), recorded.sum_of_squares,
             gradients_.squares_of_shard(rank).value());
  const auto overflow = [](const RecordedNonFinite& found) {
    return found.bucket.empty()
               ? std::string("none")
               : fmt::format("{}, {} inf, {} nan", found.tensor, found.inf, found.nan);
  };
  const auto divergence = [this](std::int64_t losses, std::int64_t layer) {
    return losses == 0 ? std::string("none")
                       : fmt::format("{} micro-batches, first in {}", losses,
                                     table_.group_name(static_cast<int>(layer) + 1));
  };
  result_.findings.push_back({fmt::format("rank {} first non-finite gradient", rank),
                              overflow(recorded.own), overflow(gradients_.own_nonfinite(rank))});
  result_.findings.push_back({fmt::format("rank {} non-finite losses", rank),
                              divergence(recorded.nonfinite_losses, recorded.nonfinite_layer),
                              divergence(sums.nonfinite_losses, sums.nonfinite_layer)});
}

}  // namespace

bool ReplayComparison::same() const {
  if (!std::isfinite(recorded) || !std::isfinite(replayed))
    return std::isfinite(recorded) == std::isfinite(replayed);
  return std::bit_cast<std::uint64_t>(recorded) == std::bit_cast<std::uint64_t>(replayed);
}

double ReplayComparison::relative_difference() const {
  if (same()) return 0.0;
  const double difference = std::fabs(recorded - replayed) / std::fabs(recorded);
  return std::isfinite(difference) ? difference : std::numeric_limits<double>::infinity();
}

bool ReplayResult::all_same() const {
  for (const ReplayComparison& number : numbers) {
    if (!number.same()) return false;
  }
  return true;
}

bool ReplayResult::reproduced() const {
  for (const ReplayFinding& finding : findings) {
    if (finding.recorded != finding.replayed) return false;
  }
  for (const ReplayComparison& number : numbers) {
    if (must_be_equal ? !number.same() : number.relative_difference() > tolerance) return false;
  }
  return true;
}

ReplayResult replay_step(const ReplayBundle& bundle, int threads, core::MemoryTracker& memory,
                         core::Logger& log) {
  return StepReplay(bundle, threads, memory, log).run();
}

}  // namespace lockstep::runtime
