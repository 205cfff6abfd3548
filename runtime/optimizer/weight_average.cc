#include "runtime/optimizer/weight_average.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <span>
#include <utility>
#include <vector>

#include "ops/transfer.h"

namespace lockstep::runtime {

namespace {

// e += a (w - e) is a step of plain gradient descent on |e - w|^2 / 2, whose gradient is -w + e: the
// optimizer's own kernel with -1 for the factor of w and 1 for the decay of e, to the bit, since
// nothing is rounded twice.
constexpr float kFactor = -1.0F;

ops::UpdateRule average_rule(double weight) {
  ops::UpdateRule rule;
  rule.kind = ops::OptimizerKind::kSgd;
  rule.learning_rate = weight;
  rule.weight_decay = 1.0;
  return rule;
}

ops::UpdatePlan plan_average(const ModelState& state, ops::OpContext& context,
                             core::MemoryTracker& memory) {
  std::vector<ops::UpdateRun> runs;
  for (int b = 0; state.averages() && b < state.layout().size(); ++b) {
    for (const OwnedRun& owned : state.owned_runs(b)) {
      ops::UpdateRun run;
      run.gradient = owned.master;
      run.master = owned.average;
      run.decay = true;
      runs.push_back(run);
    }
  }
  return {context, memory, std::move(runs)};
}

// At update n, from 1.
double decay_at(const EmaConfig& config, std::int64_t n) {
  if (!config.warmup) return config.decay;
  const auto number = static_cast<double>(n);
  return std::min(config.decay, (1.0 + number) / (10.0 + number));
}

}  // namespace

WeightAverage::WeightAverage(const EmaConfig& config, ModelState& state, ops::OpContext& context,
                             core::MemoryTracker& memory)
    : config_(config),
      state_(state),
      context_(context),
      plan_(plan_average(state, context, memory)) {
  if (!active() || context.device_ref().on_cpu()) return;
  factor_ = core::Buffer(memory, ops::kTablesRegion, sizeof(kFactor), context.device_ref());
  context_.upload(factor_.data(), &kFactor, sizeof(kFactor));
}

void WeightAverage::update(std::int64_t t) {
  const double weight = weight_at(config_, t);
  if (weight == 0.0) return;
  ops::optimizer_update_runs(context_, average_rule(weight), plan_, kFactor, 0.0F);
}

void WeightAverage::update_decided(std::int64_t first_applied, const ops::UpdateChoice* choice) {
  if (!active()) return;
  const std::array<ops::UpdateRule, ops::kMostRules> rules = {
      average_rule(weight_at(config_, first_applied + 1)),
      average_rule(weight_at(config_, first_applied + 2))};
  const std::span<const float> factor(static_cast<const float*>(factor_.data()), 1);
  ops::optimizer_update_runs(context_, rules, plan_, choice, factor, 0.0F);
}

// In fp32 the parameter is the master itself.
void WeightAverage::show(GradientBuckets& gradients) {
  state_.finish_gather();  // peers may still be reading what is about to change
  for (int b = 0; b < state_.layout().size(); ++b) {
    const core::TensorView aside = gradients.free_between_steps(b);
    for (const OwnedRun& run : state_.owned_runs(b)) {
      if (!run.parameter.empty()) {
        ops::cast(context_, run.average, run.parameter);
        continue;
      }
      ops::copy(context_, run.master, place_of(run, b, aside));
      ops::copy(context_, run.average, run.master);
    }
  }
  state_.gather();
  state_.finish_gather();
}

void WeightAverage::hide(GradientBuckets& gradients) {
  for (int b = 0; b < state_.layout().size(); ++b) {
    const core::TensorView aside = gradients.free_between_steps(b);
    for (const OwnedRun& run : state_.owned_runs(b)) {
      if (run.parameter.empty()) {
        ops::copy(context_, place_of(run, b, aside), run.master);
      } else {
        ops::cast(context_, run.master, run.parameter);
      }
    }
  }
  state_.gather();
  state_.finish_gather();
}

core::TensorView WeightAverage::place_of(const OwnedRun& run, int bucket,
                                         core::TensorView owned) const {
  const std::int64_t begin = run.segment.bucket_begin - state_.owned_begin(bucket);
  return owned.slice_cols(begin, begin + run.segment.count);
}

double WeightAverage::weight_at(const EmaConfig& config, std::int64_t t) {
  if (config.decay == 0.0 || t % config.every != 0) return 0.0;
  return 1.0 - decay_at(config, t / config.every);
}

std::string WeightAverage::describe(const EmaConfig& config) {
  const std::string every = config.every == 1 ? "every applied step"
                                              : fmt::format("every {} applied steps", config.every);
  return fmt::format("averaged weights: decay {} {}{}", config.decay, every,
                     config.warmup ? ", with warm-up" : "");
}

std::string WeightAverage::warning(const EmaConfig& config, std::int64_t steps) {
  double share = config.decay > 0.0 ? 1.0 : 0.0;
  for (std::int64_t n = 1; n <= steps / config.every && share > 0.01; ++n)
    share *= decay_at(config, n);
  if (share <= 0.01) return {};
  return fmt::format(
      "after {} steps {:.0f} % of the averaged weights will still be the initial ones: take a "
      "smaller ema.decay, or ema.warmup: true",
      steps, 100.0 * share);
}

}  // namespace lockstep::runtime
