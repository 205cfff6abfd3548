#pragma once

#include <vector>

#include "models/parameter_table.h"
#include "runtime/config/config.h"
#include "runtime/simulate/cluster_spec.h"

namespace lockstep::runtime {

// Work of one part of the model (GroupIndex) on one micro-batch of one rank.
struct PartWork {
  double matmul_flop = 0.0;     // 2 a multiply-add
  double attention_flop = 0.0;  // causal: the lower half of the scores only
  double bytes = 0.0;           // read and written by everything that is no product
};

struct GroupWork {
  PartWork forward;
  PartWork backward;
};

// By group, in canonical order: embeddings, blocks, head. Products: 2 N P forward and 4 N P
// backward for P weights and N tokens. Attention: 4 N T C forward, 10 N T C backward, half of it
// when causal; with memory.recompute backward has what is computed again too; frozen weights have no
// gradient, and nothing below all that is trained a backward. Bytes: each op of ops reads its inputs
// and writes its outputs once.
std::vector<GroupWork> micro_batch_work(const Config& config, const models::ParameterTable& table);

// Floating-point operations of a step that MFU counts, per token: 6 P + 6 L C T for causal models
// (12 L C T otherwise); P counts every weight, the token table once.
double flop_per_token(const Config& config, const models::ParameterTable& table);

// Bytes that the optimizer moves per element that a rank updates, gradient norm included.
double update_bytes_per_element(const Config& config);

// Seconds that a device needs for a part.
double seconds_of(const PartWork& work, const DeviceSpec& device, core::DType compute);

}  // namespace lockstep::runtime
