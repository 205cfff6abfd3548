#include <fmt/format.h>

#include "core/json_text.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/checkpoint_directory.h"
#include "runtime/files/write_file.h"
#include "runtime/ranks/agree.h"
#include "runtime/trainer/trainer.h"

namespace lockstep::runtime {

namespace {

constexpr const char* kLabel = "rollback";

}  // namespace

// The rollbacks of the run that is continued. Those made after the checkpoint was taken are in the
// file alone. Rank 0's reading counts: all ranks leave out the same steps. Collective.
Rollbacks Trainer::agreed_rollbacks(const CheckpointManifest& manifest, bool same_output) {
  Rollbacks rollbacks = manifest.state.decision.rollbacks;
  std::string text;
  agree(communicator_, kLabel, [&] {
    if (communicator_.rank() != 0) return;
    if (same_output) {
      Rollbacks found = read_rollbacks(config_.run.output);
      if (found.size() > rollbacks.size()) rollbacks = std::move(found);
    } else {
      remove_rollbacks(config_.run.output);  // of a run that was here before
    }
    text = rollbacks_text(rollbacks);
  });
  return parse_rollbacks(communicator_.all_gather_bytes(text, kLabel).front());
}

// The newest healthy checkpoint of what this run has trained; throws on all ranks if there is none.
// Collective.
CheckpointManifest Trainer::checkpoint_to_go_back_to(const StepDecision& decision) {
  std::string directory;
  agree(communicator_, kLabel, [&] {
    if (communicator_.rank() != 0) return;
    const auto found = newest_whole_checkpoint(
        config_.run.output, log_, Wanted::kOnlyHealthy, [&](const CheckpointManifest& each) {
          return is_past_of(config_.run.output, each.state.position);
        });
    if (found) directory = found->directory;
  });
  directory = communicator_.all_gather_bytes(directory, kLabel).front();
  if (directory.empty()) {
    throw AgreedError(
        core::ErrorKind::kDiverged,
        fmt::format("step {}: {}; there is no healthy checkpoint to go back to: {} applied steps "
                    "must have followed one; save more often (checkpoint.every_steps), or begin "
                    "anew with a lower optimizer.learning_rate",
                    progress_.step, broken_text(decision), CheckpointSaver::kGoodStepsToHealth));
  }
  CheckpointManifest manifest;
  agree(communicator_, kLabel, [&] { manifest = read_manifest(directory); });
  return manifest;
}

// The file of rollbacks comes first: whatever kills the run from then on, a resume knows which
// checkpoints are given up and which steps to leave out.
void Trainer::go_back_to(const CheckpointManifest& manifest, const Rollbacks& rollbacks) {
  agree(communicator_, kLabel, [&] {
    if (communicator_.rank() != 0) return;
    write_rollbacks(config_.run.output, rollbacks);
    replace_file(config_.run.output + "/checkpoints/latest",
                 checkpoint_name(manifest.state.step) + "\n");
  });
  agree(communicator_, kLabel, [&] {
    continue_from(manifest, manifest.state.position);
    progress_.decision.rollbacks = rollbacks;
  });
  spoilt_.clear();
  saver_.forget_after(progress_.step);
  whole_step_ = progress_.step;
  validation_owed_ = false;
  guard_.clear();
  guard_.publish();
  tell_device_state();
  monitor_.resumed(progress_.step);
}

// All ranks are here after the same step, which was not applied. A step that a device has begun
// meanwhile has never been.
void Trainer::roll_back(const StepDecision& decision) {
  const std::int64_t broken = progress_.step;
  drop_steps_under_way();  // of a past that is given up
  finish_save();
  saver_.promote(broken, progress_.decision.applied_steps);
  state_->finish_gather();  // peers still read this rank's parameters until theirs is done, too
  const CheckpointManifest manifest = checkpoint_to_go_back_to(decision);
  const std::string cause = broken_text(decision);
  Rollbacks rollbacks = progress_.decision.rollbacks;
  const bool diverged = decision.outcome == StepOutcome::kDiverged;
  const auto spikes = static_cast<std::int64_t>(progress_.decision.spike_guard.spikes());
  const Rollback rollback =
      plan_rollback(rollbacks, manifest.state.step, broken, diverged ? 0 : spikes, decision.level);
  const std::string refused =
      refusal(rollbacks, rollback, config_.precision.loss_scale.max_consecutive_skips);
  if (!refused.empty()) {
    throw AgreedError(
        core::ErrorKind::kDiverged,
        fmt::format("step {}: {}; not rolled back again: {}; left out so far: {}; "
                    "lower optimizer.learning_rate or look at the data of these steps",
                    broken, cause, refused,
                    rollbacks.empty() ? "nothing" : describe_left_out(rollbacks)));
  }
  rollbacks.push_back(rollback);
  go_back_to(manifest, rollbacks);
  checkpoint_owed_ = checkpoint_owed_ || decision.checkpoint;
  recorder_.event(
      "health",
      fmt::format(R"("kind":"rollback","step":{},"outcome":"{}","cause":{},)"
                  R"("to":{},"checkpoint":"{}","left_out":{})",
                  broken, name_of(diverged ? StepOutcome::kDiverged : StepOutcome::kSpike),
                  core::json_string(cause), rollback.to, checkpoint_name(rollback.to),
                  left_out_json(rollbacks)));
  if (communicator_.rank() == 0) {
    log_.warning("health", "step {}: {}; back to step {}, leaving out {}", broken, cause,
                 rollback.to, describe_left_out(rollbacks));
  }
}

}  // namespace lockstep::runtime
