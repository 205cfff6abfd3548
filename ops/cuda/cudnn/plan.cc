#include "ops/cuda/cudnn/plan.h"

namespace lockstep::ops::cuda {

CudnnDescriptor describe_device(const CudnnLibrary& library, const std::string& json) {
  CudnnDescriptor device(library, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  device.set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, json).finalize("describing a device");
  return device;
}

AttentionProposals::AttentionProposals(const CudnnLibrary& library, const AttentionProblem& problem,
                                       PlanTarget target)
    : library_(library),
      target_(target),
      graph_(
          std::make_shared<AttentionGraph>(describe_attention(library, problem, target.handle))) {
  ask(CUDNN_HEUR_MODE_A);
  first_fallback_ = configs_.size();
  ask(CUDNN_HEUR_MODE_FALLBACK);
  if (configs_.empty()) throw CudnnRefusal("cuDNN has no engine for this attention");
}

void AttentionProposals::ask(cudnnBackendHeurMode_t mode) {
  CudnnDescriptor heuristic(library_, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  heuristic.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph_->graph.front());
  heuristic.set(CUDNN_ATTR_ENGINEHEUR_MODE, mode);
  if (target_.device != nullptr) heuristic.set(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, *target_.device);
  if (library_.finalize(heuristic.raw()) != CUDNN_STATUS_SUCCESS) return;  // none of this kind

  std::vector<CudnnDescriptor> found;
  const std::int64_t count = heuristic.descriptors(CUDNN_ATTR_ENGINEHEUR_RESULTS, found);
  for (std::int64_t i = 0; i < count; ++i)
    found.emplace_back(library_, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
  const std::int64_t filled =
      count == 0 ? 0 : heuristic.descriptors(CUDNN_ATTR_ENGINEHEUR_RESULTS, found);
  found.erase(found.begin() + filled, found.end());
  for (CudnnDescriptor& config : found) {
    std::vector<CudnnDescriptor> engine;
    engine.emplace_back(library_, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    config.descriptors(CUDNN_ATTR_ENGINECFG_ENGINE, engine);
    const std::int64_t number = engine.front().number(CUDNN_ATTR_ENGINE_GLOBAL_INDEX);
    const std::int64_t workspace = config.number(CUDNN_ATTR_ENGINECFG_WORKSPACE_SIZE);
    configs_.push_back({std::move(config), number, workspace});
  }
}

AttentionPlan AttentionProposals::finish(EngineConfig config) const {
  CudnnDescriptor plan(library_, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config.config);
  if (target_.device != nullptr) plan.set(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, *target_.device);
  plan.finalize("planning attention");
  const std::int64_t workspace = plan.number(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE);
  return {graph_, std::move(config), std::move(plan), workspace};
}

AttentionPlan AttentionProposals::next(std::int64_t most_workspace) {
  std::string why = "cuDNN has no engine left for this attention";
  while (more()) {
    EngineConfig& config = configs_[next_++];
    if (config.workspace > most_workspace) continue;
    try {
      AttentionPlan plan = finish(std::move(config));
      if (plan.workspace <= most_workspace) return plan;
    } catch (const CudnnRefusal& refusal) {
      why = refusal.what();
    }
  }
  throw CudnnRefusal(why);
}

}  // namespace lockstep::ops::cuda
