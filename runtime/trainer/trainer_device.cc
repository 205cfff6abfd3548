#include <fmt/format.h>

#include <vector>

#include "core/check.h"
#include "runtime/optimizer/step_rules.h"
#include "runtime/plan/memory_plan.h"
#include "runtime/ranks/agree.h"
#include "runtime/trainer/trainer.h"

// How a step goes on a device: everything of it is put on the stream, the decision and the update
// too, and the host follows one step behind. The device never waits for it.
namespace lockstep::runtime {

namespace {

constexpr int kOnCpu = 1;  // steps under way: the one that is computed

}  // namespace

void Trainer::set_up_device(const BackendDevice& device, int threads) {
  // At once what the plan says, so that nothing is allocated in the steady state.
  const MemoryPlan plan = plan_memory(config_, communicator_.world_size(), threads);
  context_.scratch(plan.bytes_of("workspace"));
  communicator_.work_on(context_.stream());
  timer_.time_phases_on(context_.device_ref(), context_.stream());
  for (core::DeviceEvent& reached : reached_)
    reached = core::DeviceEvent(context_.device_ref());
  decision_bodies_ = device.decision;
  device_decision_ = std::make_unique<DeviceDecision>(
      rules_, table_, shard_norm_.parameters(), communicator_, context_, *device.decision, memory_);
  if (config_.health.replay_bundles > 0 && communicator_.rank() == 0)
    kept_ = std::make_unique<KeptParameters>(table_, layout_, *state_, memory_);
}

bool Trainer::ends_in_order(std::int64_t step) const {
  const std::int64_t every = config_.train.validate_every;
  const bool validates = validation_data_ && every > 0 && step % every == 0;
  return step == config_.train.steps || validates || checkpoint_due(step);
}

// Nothing is launched behind a step after which the run does something else than train, before that
// is done; a step that is left out has no place among others.
bool Trainer::may_launch() const {
  if (launched() == config_.train.steps) return false;
  if (under_way_.empty()) return true;
  const std::size_t most = decides_on_device() ? kStepsUnderWay : kOnCpu;
  const StepUnderWay& last = under_way_.back();
  return under_way_.size() < most && !held_ && !last.left_out && !ends_in_order(last.number) &&
         !is_left_out(progress_.decision.rollbacks, launched() + 1);
}

Trainer::StepUnderWay Trainer::next_step() const {
  StepUnderWay step;
  step.number = launched() + 1;
  step.mirror = decides_on_device() ? static_cast<int>(step.number % kStepsUnderWay) : 0;
  step.left_out = is_left_out(progress_.decision.rollbacks, step.number);
  step.first_applied = progress_.decision.applied_steps;
  return step;
}

Trainer::StepUnderWay Trainer::wait_for_oldest() {
  LOCKSTEP_CHECK(!under_way_.empty(), "no step is under way");
  const StepUnderWay step = under_way_.front();
  if (!context_.device_ref().on_cpu()) reached_[mirror_of(step)].wait();
  under_way_.pop_front();
  return step;
}

void Trainer::apply_on_device(const StepUnderWay& step) {
  device_decision_->launch({shard_norm_.sums(), shard_norm_.sum_count(), losses_.at(), plan_.rounds,
                            gradients_->own().counts(), gradients_->own().count_of_counts()},
                           step.first_applied, step.mirror);
  if (kept_) kept_->keep_unless_applied(*decision_bodies_, *device_decision_);
  timer_.phase(Phase::kUpdate);
  std::vector<StepRules> rules;  // for every number of applied steps there may be
  for (int i = 0; i < kStepsUnderWay; ++i)
    rules.push_back(step_rules(config_, step.first_applied + 1 + i, progress_.optimizer_since));
  const double clamp = config_.clip.mode == ClipMode::kValue ? config_.clip.threshold : 0.0;
  update_.apply_decided(rules, device_decision_->choice(), device_decision_->factors(), clamp);
  average_.update_decided(step.first_applied, device_decision_->choice());
  timer_.phase(Phase::kGather);
  state_->gather();
  if (!plan_.overlap) state_->finish_gather();
  timer_.phase(Phase::kDecide);
  guard_.published(step.mirror);
}

// Compares what the device has decided with what follows from the reports. Returns the clip
// coefficient, as apply().
double Trainer::confirm(const StepUnderWay& step, StepDecision& decision) {
  if (step.left_out) {
    device_decision_->set_state(decision.next);
    return decision.coefficient;
  }
  guard_.take_published(step.mirror);
  double coefficient = decision.coefficient;
  if (decision.applied()) update_factors(decision, step.mirror, coefficient);
  const auto rule =
      static_cast<std::int32_t>(progress_.decision.applied_steps - step.first_applied);
  std::string differs =
      difference(device_decision_->decided(step.mirror), decision, coefficient, rule);
  if (differs.empty())
    differs = device_decision_->reference_difference(decision.next.clip_references, step.mirror);
  if (differs.empty()) return coefficient;
  throw core::Error(
      core::ErrorKind::kCommunication,
      fmt::format("step {}: the device of rank {} decided otherwise than its host from the same "
                  "reports: {}; its memory or its transfers are at fault: resume from the last "
                  "checkpoint without this device",
                  step.number, communicator_.rank(), differs));
}

void Trainer::drop_steps_under_way() {
  if (under_way_.empty()) return;
  context_.wait();
  under_way_.clear();
}

void Trainer::tell_device_state() {
  if (device_decision_) device_decision_->set_state(progress_.decision);
}

}  // namespace lockstep::runtime
