#include <fmt/format.h>

#include <utility>
#include <vector>

#include "core/check.h"
#include "core/hash.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/initial_weights.h"
#include "runtime/checkpoint/resume_check.h"
#include "runtime/plan/memory_plan.h"
#include "runtime/ranks/agree.h"
#include "runtime/trainer/trainer.h"

namespace lockstep::runtime {

void Trainer::set_initial_weights() {
  if (!config_.init_from.empty()) {
    load_initial_weights(config_, table_, *state_, log_);
    return;
  }
  std::vector<float> values;
  for (models::ParameterId id = 0; id < table_.size(); ++id) {
    values.resize(static_cast<std::size_t>(table_[id].elements()));
    models::initialize(table_[id], config_.run.seed, values.data());
    state_->set_parameter(id, values.data());
  }
}

// What the next attempt compares its own with (runtime/metrics/set_up.h).
std::string Trainer::set_up_member() const {
  return fmt::format(R"("set_up":"{}")", core::to_hex(set_up_));
}

std::string Trainer::run_line_with_set_up(const std::string& run_line) const {
  return run_line + (run_line.empty() ? "" : ",") + set_up_member();
}

void Trainer::start(const std::string& run_line) {
  agree(communicator_, "initial weights", [&] {
    if (communicator_.rank() == 0) remove_rollbacks(config_.run.output);
    set_initial_weights();
    if (average_.active()) state_->start_averages();
    recorder_.open({}, 0);
    recorder_.event("run", run_line_with_set_up(run_line));
  });
  guard_.publish();
  tell_device_state();
}

void Trainer::resume(const std::string& checkpoint, const std::string& run_line) {
  std::vector<ConfigDifference> changes;
  OptimizerChange optimizer;
  CheckpointManifest manifest;
  agree(communicator_, "resume", [&] {
    manifest = read_manifest(checkpoint);
    changes = check_resumable(manifest, config_, train_data_->fingerprints());
  });
  // In another OUTPUT the files of the run begin anew; in its own they go on where the checkpoint
  // was taken. Where that is, is for rank 0 to say.
  const int own = belongs_to(manifest, config_.run.output) ? 1 : 0;
  const bool same_output = communicator_.all_gather_small(own, "resume").front() == 1;
  const Rollbacks rollbacks = agreed_rollbacks(manifest, same_output);
  agree(communicator_, "resume", [&] {
    const ResumePoint point{manifest.state.step, set_up_,
                            config_.run.reproducible != Reproducible::kNone,
                            communicator_.world_size(),
                            [&](std::int64_t step) { return is_left_out(rollbacks, step); }};
    optimizer = continue_from(manifest, same_output ? manifest.state.position : RecordPosition{},
                              same_output ? &point : nullptr);
    progress_.decision.rollbacks = rollbacks;
    if (!same_output) recorder_.event("run", run_line_with_set_up(run_line));
    recorder_.event("resume", resume_fields(manifest, changes) +
                                  fmt::format(R"(,"left_out":{},"bits_promised":{},"ranks":{},{})",
                                              left_out_json(rollbacks), recorder_.bits_promised(),
                                              communicator_.world_size(), set_up_member()));
  });
  if (same_output) {
    saver_.watch_up_to(progress_.step);
    whole_step_ = progress_.step;
    // A stop may have come before it was done.
    const int owed = validation_due() && !recorder_.told_validation(progress_.step) ? 1 : 0;
    validation_owed_ = communicator_.all_gather_small(owed, "resume").front() == 1;
  }
  guard_.publish();
  tell_device_state();
  log_.info("resume", "continuing after step {} from {}", progress_.step, checkpoint);
  if (!rollbacks.empty()) log_.info("resume", "left out: steps {}", describe_left_out(rollbacks));
  for (const ConfigDifference& change : changes) {
    log_.info("resume", "changed: {}: {} -> {}", change.key, change.before, change.after);
  }
  if (optimizer.any()) log_.warning("resume", "optimizer state: {}", optimizer.describe());
  if (progress_.step >= config_.train.steps) {
    log_.info("resume", "nothing is left to do: train.steps is {}; raise it to train on",
              config_.train.steps);
  }
}

// Weights, optimizer state, counters, metrics and ledger as the checkpoint has them.
OptimizerChange Trainer::continue_from(const CheckpointManifest& manifest,
                                       const RecordPosition& position, const ResumePoint* resumed) {
  OptimizerChange change = load_checkpoint(manifest, table_, config_, *state_);
  progress_.step = manifest.state.step;
  progress_.data_position = manifest.state.data_position;
  progress_.decision = manifest.state.decision;
  progress_.optimizer_since =
      change.kept.empty() ? manifest.state.decision.applied_steps : manifest.state.optimizer_since;
  recorder_.open(position, progress_.step, resumed);
  return change;
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
  if (stop_points_.agreed()) stop_as_requested();
  validate_as_owed();
  step_begin_ = std::chrono::steady_clock::now();
  while (progress_.step < config_.train.steps) {
    std::optional<StepDecision> decision;
    try {
      decision = advance();
    } catch (const StopAgreed&) {
      gradients_->abandon_step();
      stop_as_requested();
    }
    if (!decision) continue;
    const auto aside = std::chrono::steady_clock::now();
    if (decision->save_settled) finish_save();
    saver_.promote(progress_.step, progress_.decision.applied_steps);
    stop_if_decided(*decision);
    if (decision->stop == StopReason::kRollback) {
      roll_back(*decision);
    } else {
      validate_and_save(*decision);
    }
    // The seconds of a step leave out validation and saving.
    step_begin_ += std::chrono::steady_clock::now() - aside;
  }
}

void Trainer::validate_and_save(const StepDecision& decision) {
  const bool last = progress_.step == config_.train.steps;
  const bool stops = !last && decision.stop == StopReason::kRequested;
  validation_owed_ = validation_due();
  if (!stops) validate_as_owed();
  const bool due = checkpoint_due(progress_.step) || due_owed_;
  const bool saves = due || decision.checkpoint || checkpoint_owed_;
  if (!under_way_.empty()) {
    // Steps launched meanwhile are part of the run: it stops, or is saved, behind them.
    held_ = held_ || stops || saves;
    checkpoint_owed_ = saves;
    due_owed_ = due;
    return;
  }
  if (stops) stop_as_requested();
  checkpoint_owed_ = due_owed_ = false;
  if (!saves) return;
  finish_save();  // one at a time
  save_may_fail_ = !due;
  try {
    begin_save();
    if (!config_.checkpoint.async) finish_save();
  } catch (const AgreedError& error) {
    give_up_save(error);
  }
}

// A full disk under a checkpoint that somebody asked for is told to who asked, and the run goes on.
void Trainer::give_up_save(const core::Error& error) {
  if (!save_may_fail_ || error.kind() != core::ErrorKind::kData) throw;
  save_may_fail_ = false;
  monitor_.save_failed();
  if (communicator_.rank() != 0) return;
  log_.error("checkpoint", "{}; the run goes on without the checkpoint that was asked for",
             error.what());
}

bool Trainer::validation_due() const {
  const std::int64_t every = config_.train.validate_every;
  const bool last = progress_.step == config_.train.steps;
  return validation_data_ && every > 0 && progress_.step > 0 &&
         (progress_.step % every == 0 || last);
}

void Trainer::validate_as_owed() {
  if (!validation_owed_) return;
  double loss = 0.0;
  std::optional<double> of_average;
  try {
    loss = validate();
    of_average = validate_average();
  } catch (const StopAgreed&) {
    stop_as_requested();  // the next attempt owes it
  }
  recorder_.validation(progress_.step, loss, of_average);
  validation_owed_ = false;
}

void Trainer::set_attempt(std::int64_t attempt) {
  faults_.set_attempt(attempt);
  saver_.set_attempt(attempt);
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
  LOCKSTEP_CHECK(under_way_.empty(), "a save with {} steps under way", under_way_.size());
  finish_save();  // one at a time
  monitor_.got_on(RunPhase::kSaving);
  CheckpointState state;
  state.step = progress_.step;
  state.decision = progress_.decision;
  state.position = recorder_.sync();
  state.config_fingerprint = fingerprint_;
  state.world_size = communicator_.world_size();
  state.seed = config_.run.seed;
  state.data_position = progress_.data_position;
  state.optimizer_since = progress_.optimizer_since;
  state.training_files = train_data_->fingerprints();
  state.tokenizer = train_data_->files().front().tokenizer();
  state_->finish_gather();
  saver_.begin(state, *state_);
  saving_step_ = progress_.step;
}

void Trainer::finish_save() {
  if (!saver_.in_flight()) return;
  monitor_.got_on(RunPhase::kSaving);
  try {
    saver_.finish();
  } catch (const AgreedError& error) {
    return give_up_save(error);
  }
  save_may_fail_ = false;
  monitor_.saved(saving_step_);
  whole_step_ = saving_step_;
  recorder_.event("checkpoint", fmt::format(R"("step":{},"directory":"{}")", saving_step_,
                                            checkpoint_name(saving_step_)));
}

}  // namespace lockstep::runtime
