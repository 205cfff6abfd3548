#include <fmt/format.h>

#include <vector>

#include "runtime/agree.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/model_file.h"
#include "runtime/checkpoint/resume_check.h"
#include "runtime/memory_plan.h"
#include "runtime/trainer.h"

namespace lockstep::runtime {

void Trainer::set_initial_weights() {
  if (!config_.init_from.empty()) {
    read_model_file(config_.init_from, config_.model, table_, *state_);
    return;
  }
  std::vector<float> values;
  for (models::ParameterId id = 0; id < table_.size(); ++id) {
    values.resize(static_cast<std::size_t>(table_[id].elements()));
    models::initialize(table_[id], config_.run.seed, values.data());
    state_->set_parameter(id, values.data());
  }
}

void Trainer::start(const std::string& run_line) {
  agree(communicator_, "initial weights", [&] {
    set_initial_weights();
    recorder_.open({});
    recorder_.event("run", run_line);
  });
  guard_.published();
}

void Trainer::resume(const std::string& checkpoint, const std::string& run_line) {
  std::vector<ConfigDifference> changes;
  agree(communicator_, "resume", [&] {
    const CheckpointManifest manifest = read_manifest(checkpoint);
    changes = check_resumable(manifest, config_, train_data_->fingerprints());
    load_checkpoint(manifest, table_, config_, *state_);
    progress_.step = manifest.state.step;
    progress_.decision = manifest.state.decision;
    // In another OUTPUT the files of the run begin anew; in its own they go on where the checkpoint
    // was taken.
    const bool same_output = belongs_to(manifest, config_.run.output);
    recorder_.open(same_output ? manifest.state.position : RecordPosition{});
    if (!same_output) recorder_.event("run", run_line);
    if (same_output) saver_.watch(progress_.step, progress_.decision.applied_steps);
    recorder_.event("resume", resume_fields(manifest, changes));
  });
  guard_.published();
  log_.info("resume", "continuing after step {} from {}", progress_.step, checkpoint);
  for (const ConfigDifference& change : changes) {
    log_.info("resume", "changed: {}: {} -> {}", change.key, change.before, change.after);
  }
}

void Trainer::run() {
  try {
    run_steps();
    finish_save();
  } catch (const AgreedError&) {
    // All ranks are here: what was to be saved before the run broke is still good.
    try {
      finish_save();
    } catch (const AgreedError& error) {
      if (communicator_.rank() == 0) log_.error("checkpoint", "{}", error.what());
    }
    throw;
  }
  report_memory();
}

void Trainer::run_steps() {
  step_begin_ = std::chrono::steady_clock::now();
  while (progress_.step < config_.train.steps) {
    const StepDecision decision = step();
    const auto aside = std::chrono::steady_clock::now();
    if (decision.save_settled) finish_save();
    saver_.promote(progress_.step, progress_.decision.applied_steps);
    stop_if_decided(decision);
    const std::int64_t every = config_.train.validate_every;
    const bool last = progress_.step == config_.train.steps;
    if (validation_data_ && every > 0 && (progress_.step % every == 0 || last)) {
      recorder_.validation(progress_.step, validate());
    }
    const bool finished = last || decision.stop != StopReason::kRequested;
    if (!finished) stop_as_requested();
    if (checkpoint_due(progress_.step) || decision.checkpoint) {
      begin_save();
      if (!config_.checkpoint.async) finish_save();
    }
    // The seconds of a step leave out validation and saving.
    step_begin_ += std::chrono::steady_clock::now() - aside;
  }
}

void Trainer::set_attempt(std::int64_t attempt) {
  faults_.set_attempt(attempt);
}

// All ranks are here at the same step, because one of them asked for it in its report.
void Trainer::stop_as_requested() {
  std::string saved = "without a checkpoint, as checkpoint.on_signal: false asks";
  if (config_.checkpoint.on_signal || checkpoint_due(progress_.step)) {
    save_checkpoint();
    saved = "checkpoint saved; continue with --resume auto";
  }
  throw AgreedError(core::ErrorKind::kStopped,
                    fmt::format("stopped on request after step {}: {}", progress_.step, saved));
}

std::string Trainer::culprit_text(const StepDecision& decision) const {
  return recorder_.describe_overflow(decision, progress_.decision.loss_scale.scale);
}

std::string Trainer::diverged_text(const StepDecision& decision) const {
  const int layer = decision.diverged_layer;
  const std::string place = layer == models::Transformer::kNonFiniteEmbeddings ? "the embeddings"
                            : layer == config_.model.layers
                                ? "the head (the outputs of all blocks are finite)"
                                : fmt::format("the output of block {}", layer);
  return fmt::format(
      "the loss is not finite on rank {}: the first inf or NaN is in {}; lower "
      "optimizer.learning_rate, lengthen schedule.warmup_steps, or resume from an earlier "
      "checkpoint",
      decision.diverged_rank, place);
}

void Trainer::stop_if_decided(const StepDecision& decision) const {
  const auto fail = [&](const std::string& text) {
    throw AgreedError(core::ErrorKind::kDiverged, fmt::format("step {}: {}", progress_.step, text));
  };
  switch (decision.stop) {
    case StopReason::kNone:
    case StopReason::kDesync:  // refuse_desync() threw
    case StopReason::kRequested:
      return;
    case StopReason::kDiverged:
      return fail(diverged_text(decision));
    case StopReason::kTooManySkips:
      return fail(fmt::format(
          "{} steps in a row were skipped (precision.loss_scale.max_consecutive_skips); {}",
          decision.next.skips_in_a_row, culprit_text(decision)));
    case StopReason::kScaleExhausted:
      return fail(
          fmt::format("{} overflows in a row at the minimum loss scale {} "
                      "(precision.loss_scale.overflow_patience); {}",
                      decision.next.overflows_at_minimum_in_a_row,
                      config_.precision.loss_scale.minimum, culprit_text(decision)));
  }
}

void Trainer::report_timings(std::int64_t step, const std::vector<StepReport>& reports) {
  if (communicator_.rank() != 0) return;
  std::vector<StepTiming> timings;
  for (const StepReport& report : reports)
    timings.push_back(report.timing);
  if (const auto line = timing_log_.observe(step, timings)) recorder_.event("timing", *line);
  for (const Straggler& straggler : stragglers_.observe(timings))
    log_.warning("health", "{}", straggler.describe());
}

void Trainer::report_memory() {
  const MemoryPlan plan = plan_memory(config_, communicator_.world_size(), context_.threads());
  recorder_.event(
      "memory", fmt::format(R"("planned_bytes":{},"peak_bytes":{})", plan.total(), memory_.peak()));
  log_.info("memory", "planned and actual:\n{}", to_table(plan, &memory_));
}

void Trainer::save_checkpoint() {
  begin_save();
  finish_save();
}

void Trainer::begin_save() {
  finish_save();  // one at a time
  CheckpointState state;
  state.step = progress_.step;
  state.decision = progress_.decision;
  state.position = recorder_.sync();
  state.config_fingerprint = fingerprint_;
  state.world_size = communicator_.world_size();
  state.seed = config_.run.seed;
  state.data_position = progress_.step * config_.batch.global;
  state.training_files = train_data_->fingerprints();
  state.tokenizer = train_data_->files().front().tokenizer();
  state_->finish_gather();
  saver_.begin(state, *state_);
  saving_step_ = progress_.step;
}

void Trainer::finish_save() {
  if (!saver_.in_flight()) return;
  saver_.finish();
  recorder_.event("checkpoint", fmt::format(R"("step":{},"directory":"{}")", saving_step_,
                                            checkpoint_name(saving_step_)));
}

}  // namespace lockstep::runtime
