#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/dtype.h"
#include "models/model_config.h"
#include "models/model_io.h"
#include "models/parameter_table.h"
#include "ops/op_context.h"

namespace lockstep::models {

// What the ops of one forward and backward ask OpContext::scratch for at most, in bytes: region
// "workspace" of a Transformer of these sizes on the CPU. `buckets`: those of the GradientSink,
// because the gradients of split tensors are computed piece by piece.
std::size_t workspace_bytes(const ModelConfig& config, const ParameterTable& table,
                            core::DType compute, std::int64_t max_sequences,
                            const std::vector<BucketSpec>& buckets, int threads);

// The same on CUDA: at least the greatest request, whatever algorithms are chosen.
std::size_t device_workspace_bytes(const ModelConfig& config, const ParameterTable& table,
                                   core::DType compute, std::int64_t max_sequences,
                                   ops::Determinism determinism);

}  // namespace lockstep::models
