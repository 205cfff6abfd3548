#pragma once

#include <limits>
#include <memory>
#include <vector>

#include "ops/cuda/cudnn/graph.h"

// From a graph to something that runs: cuDNN proposes engines with settings, of which those that it
// can finish become plans.
namespace lockstep::ops::cuda {

// Where plans are to run: the device of a handle, or one that is only described.
struct PlanTarget {
  cudnnHandle_t handle = nullptr;
  const CudnnDescriptor* device = nullptr;
};

// A device from the JSON text in which cuDNN describes one, to plan for it where there is none.
CudnnDescriptor describe_device(const CudnnLibrary& library, const std::string& json);

// An engine with its settings.
struct EngineConfig {
  CudnnDescriptor config;
  std::int64_t engine;     // cuDNN's number for it
  std::int64_t workspace;  // bytes of device memory for cuDNN itself, by its estimate
};

struct AttentionPlan {
  std::shared_ptr<const AttentionGraph> graph;
  EngineConfig config;
  CudnnDescriptor plan;
  std::int64_t workspace;  // bytes, at last
};

// What cuDNN proposes for a problem, best guess first. Throws CudnnRefusal when it knows nothing.
class AttentionProposals {
 public:
  AttentionProposals(const CudnnLibrary& library, const AttentionProblem& problem,
                     PlanTarget target);

  std::size_t size() const { return configs_.size(); }
  // The next one with at most so much workspace that can be finished; compiles it, which takes some
  // tenths of a second. Throws CudnnRefusal, with the reason of the last one that could not, when
  // none is left.
  AttentionPlan next(std::int64_t most_workspace = std::numeric_limits<std::int64_t>::max());
  bool more() const { return next_ < configs_.size(); }
  // What is left are slow engines that serve nearly everything.
  bool only_fallbacks() const { return next_ >= first_fallback_; }

 private:
  void ask(cudnnBackendHeurMode_t mode);
  AttentionPlan finish(EngineConfig config) const;

  const CudnnLibrary& library_;
  PlanTarget target_;
  std::shared_ptr<const AttentionGraph> graph_;
  std::vector<EngineConfig> configs_;
  std::size_t first_fallback_ = 0;
  std::size_t next_ = 0;
};

}  // namespace lockstep::ops::cuda
