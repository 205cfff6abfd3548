#include "runtime/trainer/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/check.h"
#include "runtime/config/dump_config.h"
#include "runtime/config/tensor_rules.h"
#include "runtime/data/open_dataset.h"
#include "runtime/metrics/set_up.h"
#include "runtime/optimizer/lr_schedule.h"
#include "runtime/optimizer/step_rules.h"
#include "runtime/plan/run_plan.h"
#include "runtime/ranks/agree.h"
#include "runtime/step/tensor_clipping.h"
#include "runtime/trainer/validation.h"

namespace lockstep::runtime {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

}  // namespace

Trainer::Trainer(const Config& config, int threads, comm::Communicator& communicator,
                 core::MemoryTracker& memory, core::Logger& log, const BackendDevice& device)
    : config_(config),
      communicator_(communicator),
      memory_(memory),
      log_(log),
      table_(parameter_table(config)),
      layout_(bucket_layout(config, table_, communicator.world_size())),
      plan_(gradient_plan(config, communicator.world_size())),
      rules_(decision_rules(config)),
      fingerprint_(fingerprint(config)),
      set_up_(hash_of_set_up(config, communicator.world_size(), threads)),
      context_(make_op_context(device, config, threads, memory)),
      faults_(config.fault, communicator.rank(), log),
      state_(std::make_unique<ModelState>(
          table_, layout_, config.precision.compute, config.parallel.zero_stage,
          state_tensors(config.optimizer), config.ema.decay > 0.0, communicator, context_, memory)),
      stop_points_(*state_, table_, communicator),
      gradients_(std::make_unique<GradientBuckets>(
          table_, layout_, plan_, communicator, context_,
          [this](std::int64_t step, const BucketPlacement& bucket, core::TensorView gradient) {
            faults_.overflow_bucket(step, table_, bucket, gradient, context_);
          },
          memory)),
      update_(config, table_, *state_, *gradients_, communicator, context_, memory),
      average_(config.ema, *state_, context_, memory),
      model_(std::make_unique<models::Transformer>(config.model, table_, config.precision.compute,
                                                   config.batch.micro, config.run.seed, context_,
                                                   memory, recompute_of(config))),
      guard_(table_, layout_, *state_, communicator.rank(), config.parallel.verify_every > 0,
             memory),
      recorder_(config, table_, layout_, communicator.rank(), log),
      timer_(communicator),
      timing_log_(config.metrics.every_steps),
      stragglers_(communicator.world_size()),
      replay_writer_(config, table_, context_, log),
      saver_(config, table_, layout_, state_->saved_states(), communicator, memory, log),
      losses_(context_, static_cast<std::size_t>(plan_.rounds), memory, kStepsUnderWay),
      shard_norm_(table_, layout_, communicator.rank(), context_, memory) {
  for (const std::string& line : describe_groups(config))
    log.info("optimizer", "group {}", line);
  tell_of_average();
  if (!device.on_cpu()) {
    set_up_device(device, threads);
  } else if (LayerStatistics::wanted(config)) {
    layers_ = std::make_unique<LayerStatistics>(config, table_, layout_, *state_, *gradients_,
                                                communicator.rank(), context_, memory);
  }
  open_data();
  progress_.decision = initial_decision_state(rules_);
  inputs_.resize(static_cast<std::size_t>(config.batch.micro * config.model.context));
  targets_.resize(inputs_.size());
}

// What is under way still uses the memory that is about to be given back. What fails here has been
// told already.
Trainer::~Trainer() {
  if (decides_on_device()) context_.stream().runtime().synchronize(context_.stream().handle());
}

void Trainer::open_data() {
  agree(communicator_, "data", [&] {
    train_data_ = open_training_data(config_);
    validation_data_ = open_validation_data(config_);
  });
  if (communicator_.rank() != 0) return;
  const auto tell = [&](const char* key, const TokenDataset& data) {
    log_.info("data", "{}", describe_data(key, data));
    if (const std::string doubt = suspicion(data); !doubt.empty())
      log_.warning("data", "{}", doubt);
  };
  tell("data.train", *train_data_);
  if (validation_data_) tell("data.validation", *validation_data_);
}

StepDecision Trainer::step() {
  LOCKSTEP_CHECK(under_way_.empty(), "a whole step while {} are under way", under_way_.size());
  launch_step();
  return settle_step();
}

std::optional<StepDecision> Trainer::advance() {
  if (may_launch()) launch_step();
  if (may_launch()) return std::nullopt;
  return settle_step();
}

// The part of a step that no decision of the host is needed for: on the CPU up to what was
// measured; on a device all of it, which is then under way.
void Trainer::launch_step() {
  timer_.begin_step();
  const StepUnderWay step = next_step();
  if (!step.left_out) compute_gradients(step.number);
  timer_.phase(Phase::kDecide);
  watch_parameters(step);
  if (!step.left_out) measure_gradients(step);
  if (decides_on_device() && !step.left_out) apply_on_device(step);
  if (!context_.device_ref().on_cpu()) reached_[mirror_of(step)].record(context_.stream());
  under_way_.push_back(step);
  held_ = false;
  timer_.end_step();
}

// The rest of the oldest step under way: what all ranks decide from everybody's report.
StepDecision Trainer::settle_step() {
  timer_.begin_step();
  timer_.phase(Phase::kDecide);
  const StepUnderWay step = wait_for_oldest();
  StepRecord record;
  const StepReport report = form_report(step);
  record.view = report.view;
  const std::vector<StepReport> reports = communicator_.all_gather_small(report, "step_report");
  record.decision = decide(rules_, progress_.decision, reports);
  refuse_desync(record.decision);
  if (verifies(step.number)) {
    record.parameter_hashes = guard_.bucket_hashes(step.mirror);
    guard_.clear();
  }
  if (record.decision.spike.found()) {
    record.decision.largest = largest_gradient(record.decision.unscale, step.mirror);
  }
  if (record.decision.level) examine_level(step.number, record.decision);
  if (record.decision.applied() && ends_attempt(record.decision.stop)) {
    timer_.end_step();
    return record.decision;
  }
  if (decides_on_device()) {
    record.coefficient = confirm(step, record.decision);
  } else if (record.decision.applied()) {
    record.coefficient = apply(record.decision);
  }

  timer_.phase(Phase::kOther);
  record.seconds = seconds_since(step_begin_);
  step_begin_ = Clock::now();
  recorder_.step(record);
  report_layers(step, record);
  keep_for_replay(record.decision, reports);
  report_timings(step.number, reports);
  progress_.step += 1;
  progress_.data_position += config_.batch.global;
  progress_.decision = record.decision.next;
  if (record.decision.outcome == StepOutcome::kSpike && record.decision.spikes_before == 0)
    first_spike_ = recorder_.describe_spike(record.decision);
  monitor_.step_done(progress_.step, record.decision.loss,
                     static_cast<double>(record.decision.counted) / std::max(record.seconds, 1e-9),
                     record.seconds);
  timer_.end_step();
  return record.decision;
}

RunView Trainer::view_of_run() const {
  RunView view;
  view.step = progress_.step + 1;
  view.data_position = progress_.data_position;
  view.applied_steps = progress_.decision.applied_steps;
  view.learning_rate = learning_rate_at(config_.schedule, config_.optimizer.learning_rate,
                                        progress_.decision.applied_steps + 1);
  view.loss_scale = progress_.decision.loss_scale.scale;
  view.config_fingerprint = fingerprint_;
  view.chain_head = recorder_.chain_head();
  return view;
}

void Trainer::compute_gradients(std::int64_t step) {
  faults_.slow_down(step);
  faults_.exhaust_memory(step);
  faults_.throw_if_asked(step);
  faults_.kill_or_hang(step);
  flip_bit_if_asked(step);
  accumulate_gradients(step);
}

void Trainer::accumulate_gradients(std::int64_t step) {
  gradients_->begin_step(step);
  observe_layers(step);
  const ops::LossOptions loss = loss_options();
  // On a device the host is done with a step long before it is computed.
  stop_points_.begin(decides_on_device() ? 0 : config_.batch.micro * config_.model.context);
  for (std::int64_t round = 0; round < plan_.rounds; ++round) {
    const models::MicroBatch batch = load_micro_batch(step, round);
    timer_.phase(Phase::kForward);
    model_->forward(batch, loss, stop_points_, losses_.at(static_cast<std::size_t>(round)));
    timer_.phase(Phase::kBackward);
    gradients_->begin_round(round);
    model_->backward(stop_points_, *gradients_);
    monitor_.got_on(RunPhase::kTraining);
  }
  timer_.phase(Phase::kReduce);
  gradients_->finish_step();
}

ops::LossOptions Trainer::loss_options() const {
  ops::LossOptions loss = runtime::loss_options(config_);
  if (decides_on_device()) {
    loss.weight_on_device = device_decision_->gradient_weight();
  } else {
    loss.gradient_weight =
        static_cast<float>(progress_.decision.loss_scale.scale / rules_.loss_divisor);
  }
  return loss;
}

// Sequences dealt before an attempt that is done, under way or next.
std::int64_t Trainer::data_position(std::int64_t step) const {
  return progress_.data_position + (step - 1 - progress_.step) * config_.batch.global;
}

models::MicroBatch Trainer::load_micro_batch(std::int64_t step, std::int64_t round) {
  const std::int64_t index = round * communicator_.world_size() + communicator_.rank();
  models::MicroBatch batch;
  batch.sequences = config_.batch.micro;
  batch.length = config_.model.context;
  batch.step = step - 1;
  batch.first_sequence = index * config_.batch.micro;
  timer_.begin_data();
  train_data_->fill(data_position(step) + batch.first_sequence, batch.sequences, inputs_, targets_);
  timer_.end_data();
  batch.inputs = inputs_;
  batch.targets = targets_;
  if (round + 1 == plan_.rounds) batch.poison_block = faults_.poisoned_block(step);
  return batch;
}

void Trainer::watch_parameters(const StepUnderWay& step) {
  if (step.left_out) state_->finish_gather();  // no forward has waited for it
  guard_.used(step.mirror);
  if (verifies(step.number)) guard_.used_buckets(step.mirror);
}

void Trainer::measure_gradients(const StepUnderWay& step) {
  shard_norm_.measure(*gradients_, step.mirror);
  measure_layers(step.number);
  gradients_->fetch_nonfinite(step.mirror);
  losses_.fetch(step.mirror);
}

StepReport Trainer::form_report(const StepUnderWay& step) {
  StepReport report;
  report.view = view_of_run();
  if (!step.left_out) add_up_step(step.mirror, report);
  guard_.collect(step.number, step.mirror);
  if (verifies(step.number)) {
    report.view.parameter_digest = guard_.digest();
    report.contradicted_bucket = guard_.contradicted_bucket();
  }
  report.requests = control_requests();
  report.save = saver_.progress();
  report.timing = timer_.take();
  return report;
}

void Trainer::add_up_step(int mirror, StepReport& report) const {
  report.sum_of_squares = shard_norm_.total(mirror);
  if (!std::isfinite(report.sum_of_squares.value()))
    report.shard = shard_norm_.first_nonfinite(mirror);
  report.own = gradients_->own_nonfinite(mirror);
  for (std::size_t round = 0; round < losses_.size(); ++round) {
    const ops::LossSums& sums = losses_.value(round, mirror);
    report.optimised_loss.add(sums.optimised);
    report.counted += sums.counted;
    report.terms += sums.terms;
    if (std::isfinite(sums.optimised)) continue;
    if (report.nonfinite_losses == 0) report.nonfinite_layer = sums.nonfinite_layer;
    report.nonfinite_losses += 1;
  }
}

void Trainer::listen_to(const std::atomic<int>& flag) {
  stop_flag_ = &flag;
  stop_points_.set_question([this] { return stop_asked(); });
}

bool Trainer::stop_asked() const {
  const bool signalled = stop_flag_ != nullptr && stop_flag_->load() != 0;
  const double limit = config_.run.time_limit;
  return signalled || (limit > 0.0 && seconds_since(started_) >= limit) ||
         monitor_.stop_requested();
}

std::uint32_t Trainer::control_requests() {
  return monitor_.take_requests() | (stop_asked() ? kRequestStop : kRequestNone);
}

bool Trainer::checkpoint_due(std::int64_t step) const {
  const std::int64_t every = config_.checkpoint.every_steps;
  return step == config_.train.steps || (every > 0 && step % every == 0);
}

// Nothing is saved that has not been compared since the last comparison.
bool Trainer::verifies(std::int64_t step) const {
  const std::int64_t every = config_.parallel.verify_every;
  return every > 0 && (step % every == 0 || checkpoint_due(step));
}

void Trainer::refuse_desync(const StepDecision& decision) {
  if (decision.stop != StopReason::kDesync) return;
  std::vector<int> ranks = decision.desync.ranks;
  std::string detail = decision.desync.detail;
  if (decision.desync.field == kParameterField || decision.desync.field == "parameter_digest") {
    const ParameterGuard::Verdict verdict = guard_.localise(communicator_);
    ranks = verdict.ranks;
    detail = verdict.detail;
  }
  const std::string message = fmt::format(
      "step {}: rank{} {} disagree{} with the run in {}: {}; nothing was saved; the last "
      "checkpoint "
      "is whole: resume from it, without the host of that rank if this happens again",
      progress_.step + 1, ranks.size() == 1 ? "" : "s", fmt::join(ranks, ", "),
      ranks.size() == 1 ? "s" : "", decision.desync.field, detail);
  throw AgreedError(core::ErrorKind::kCommunication, message);
}

double Trainer::apply(StepDecision& decision) {
  double coefficient = decision.coefficient;
  const UpdateFactors factors = update_factors(decision, 0, coefficient);
  timer_.phase(Phase::kUpdate);
  update_.apply(
      step_rules(config_, progress_.decision.applied_steps + 1, progress_.optimizer_since), factors,
      changes_to_keep());
  timer_.phase(Phase::kGather);
  state_->gather();
  timer_.phase(Phase::kUpdate);
  average_.update(progress_.decision.applied_steps + 1);
  timer_.phase(Phase::kGather);
  if (!plan_.overlap) state_->finish_gather();
  timer_.phase(Phase::kDecide);
  guard_.published(0);
  guard_.take_published(0);
  return coefficient;
}

UpdateFactors Trainer::update_factors(StepDecision& decision, int mirror, double& coefficient) {
  UpdateFactors factors;
  factors.factor = decision.unscale * decision.coefficient;
  if (config_.clip.mode == ClipMode::kValue) factors.clamp = config_.clip.threshold;
  if (clips_by_tensor(config_.clip.mode)) {
    factors.by_parameter =
        clip_tensors(config_.clip, tensor_norms(decision.unscale, mirror), decision);
    coefficient = *std::min_element(factors.by_parameter.begin(), factors.by_parameter.end());
    for (double& factor : factors.by_parameter)
      factor *= decision.unscale;
  }
  return factors;
}

// By parameter, of the mean gradient. Collective.
std::vector<double> Trainer::tensor_norms(double unscale, int mirror) {
  const std::vector<ops::ExactSum> sums = shard_norm_.by_parameter(mirror);
  const std::size_t bytes = sums.size() * sizeof(ops::ExactSum);
  const std::string packed(reinterpret_cast<const char*>(sums.data()), bytes);
  std::vector<ops::ExactSum> totals(sums.size());
  for (const std::string& part : communicator_.all_gather_bytes(packed, "tensor_norms")) {
    for (std::size_t i = 0; i < totals.size(); ++i) {
      ops::ExactSum sum;
      std::memcpy(&sum, part.data() + i * sizeof(sum), sizeof(sum));
      totals[i].merge(sum);
    }
  }
  std::vector<double> norms;
  for (const ops::ExactSum& total : totals)
    norms.push_back(std::sqrt(total.value()) * unscale);
  return norms;
}

LargestGradient Trainer::largest_gradient(double unscale, int mirror) {
  const std::vector<double> norms = tensor_norms(unscale, mirror);
  const auto largest = std::max_element(norms.begin(), norms.end());
  return {static_cast<models::ParameterId>(largest - norms.begin()), *largest};
}

void Trainer::flip_bit_if_asked(std::int64_t step) {
  const int block = faults_.flipped_block(step);
  if (block < 0) return;
  state_->finish_gather();
  flip_bit(state_->bucket_parameters(layout_.bucket_of_block(block)), context_);
  log_.warning("fault", "drill: a bit of the parameters of block {} flipped at step {}", block,
               step);
}

std::optional<double> Trainer::validate_average() {
  if (!average_.active()) return std::nullopt;
  average_.show(*gradients_);
  try {
    const double loss = validate();
    average_.hide(*gradients_);
    return loss;
  } catch (const StopAgreed&) {  // on all ranks, which save before they stop
    average_.hide(*gradients_);
    throw;
  }
}

double Trainer::validate() {
  return mean_loss(config_, *validation_data_, validation_range(config_, *validation_data_),
                   *model_, stop_points_, communicator_, &monitor_);
}

}  // namespace lockstep::runtime
