#include "runtime/optimizer/sharded_update.h"

#include <utility>

namespace lockstep::runtime {

namespace {

// muon: updates what it does, may be null.
std::vector<RuledRun> runs_of(const std::vector<TensorRule>& rules, ModelState& state,
                              const GradientBuckets& gradients, const MuonUpdate* muon) {
  std::vector<RuledRun> runs;
  for (int b = 0; b < state.layout().size(); ++b) {
    const core::ConstTensorView gradient = gradients.updated(b);
    const std::int64_t begin = state.owned_begin(b);
    for (const OwnedRun& owned : state.owned_runs(b)) {
      if (muon != nullptr && muon->updates(owned.segment.parameter)) continue;
      const std::int64_t offset = owned.segment.bucket_begin - begin;
      ops::UpdateRun run;
      run.gradient = gradient.slice_cols(offset, offset + owned.segment.count);
      run.master = owned.master;
      if (owned.states.size() > 0) run.state0 = owned.states[0];
      if (owned.states.size() > 1) run.state1 = owned.states[1];
      run.parameter = owned.parameter;
      run.factor = owned.segment.parameter;
      runs.push_back({rules[static_cast<std::size_t>(owned.segment.parameter)], run});
    }
  }
  return runs;
}

}  // namespace

ShardedUpdate::ShardedUpdate(const Config& config, const models::ParameterTable& table,
                             ModelState& state, const GradientBuckets& gradients,
                             comm::Communicator& communicator, ops::OpContext& context,
                             core::MemoryTracker& memory)
    : state_(state),
      context_(context),
      muon_(config.optimizer.name == ops::OptimizerKind::kMuon
                ? std::make_unique<MuonUpdate>(config, table, state, gradients, communicator,
                                               context, memory)
                : nullptr),
      rest_(runs_of(tensor_rules(config.optimizer, table), state, gradients, muon_.get()), context,
            memory),
      factors_(static_cast<std::size_t>(table.size())) {
  if (context.device_ref().on_cpu()) return;
  factors_on_device_ = core::Buffer(memory, ops::kTablesRegion, factors_.size() * sizeof(float),
                                    context.device_ref());
}

ops::RunFactors ShardedUpdate::run_factors(const UpdateFactors& factors) {
  if (factors.by_parameter.empty()) return static_cast<float>(factors.factor);
  for (std::size_t i = 0; i < factors_.size(); ++i)
    factors_[i] = static_cast<float>(factors.by_parameter[i]);
  const float* where = factors_.data();
  if (!factors_on_device_.empty()) {
    context_.upload(factors_on_device_.data(), factors_.data(), factors_.size() * sizeof(float));
    where = static_cast<const float*>(factors_on_device_.data());
  }
  return ops::RunFactors(std::span<const float>(where, factors_.size()));
}

void ShardedUpdate::apply(const StepRules& rules, const UpdateFactors& factors,
                          UpdateChanges* changes) {
  state_.finish_gather();  // peers may still be reading the parameters that are about to change
  const ops::RunFactors by_run = run_factors(factors);
  const auto clamp = static_cast<float>(factors.clamp);
  if (muon_) muon_->apply(rules.matrices, by_run, clamp, changes);
  rest_.apply(context_, rules.tensors, by_run, clamp, changes);
}

void ShardedUpdate::apply_decided(std::span<const StepRules> rules, const ops::UpdateChoice* choice,
                                  std::span<const float> by_parameter, double clamp) {
  state_.finish_gather();
  std::vector<ops::UpdateRule> tensors;
  std::vector<ops::UpdateRule> matrices;
  for (const StepRules& each : rules) {
    tensors.push_back(each.tensors);
    matrices.push_back(each.matrices);
  }
  const auto bound = static_cast<float>(clamp);
  if (muon_) muon_->apply_decided(matrices, choice, by_parameter, bound);
  rest_.apply_decided(context_, tensors, choice, by_parameter, bound);
}

}  // namespace lockstep::runtime
