#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/memory.h"
#include "core/tensor.h"
#include "models/model_config.h"
#include "models/recompute.h"

// The memory of a Transformer: one plan of regions and slots, computed from sizes alone, that both
// `memory_regions()` and the allocation read. Sizes in the comments are those of the largest
// micro-batch (N = max_sequences * context); a smaller one uses the front of each slot. "compute"
// is the compute type, "accumulate" fp32 (fp64 for fp64).
//
// What is computed again in backward has one place that all blocks share: with Recompute::kBlock
// everything of a block but its input, with kAttention what leads from the block's input to the
// input of the attention's output projection. Forward leaves there what the last block wrote. Blocks
// below the first that is trained have no backward; they share all but their inputs too.
namespace lockstep::models {

enum class Region {
  kActivations,          // what forward keeps for backward
  kLogits,               // logits, and in place of them their gradient
  kActivationGradients,  // what backward passes on, and temporaries of both directions
  kTiedGradient,         // the head's share of the gradient of a tied token table
  kPositionTables,       // constants: rotary angles or sinusoidal positions
};
inline constexpr int kRegions = 5;
const char* region_name(Region region);  // the name in the memory tracker and in `lockstep plan`

// A piece of a region. bytes == 0: this model does not need it, and its view is empty.
struct Slot {
  Region region = Region::kActivations;
  std::size_t offset = 0;
  std::size_t bytes = 0;
  core::DType dtype = core::DType::kF32;
};

struct NormSlots {
  Slot mean;  // [N] accumulate; layernorm only
  Slot rstd;  // [N] accumulate
};

struct EmbeddingSlots {
  Slot sum;  // [N, C] input of the norm after the embeddings, where there is one
  NormSlots norm;
};

struct AttentionSlots {
  Slot qkv;      // [N, HD + 2*kv_width]: q | k | v; q and k rotated in place unless qk_norm
  Slot qk;       // [N, HD + kv_width]: q | k normed and rotated; qk_norm only
  Slot q_rstd;   // [N*H] accumulate; qk_norm only
  Slot k_rstd;   // [N*K] accumulate; qk_norm only
  Slot context;  // [N, HD] attention-weighted values, input of the output projection
  Slot lse;      // [B*H, T] accumulate
};

struct MlpSlots {
  Slot gate;       // [N, F] gated activations only
  Slot up;         // [N, F] before the activation
  Slot activated;  // [N, F] input of the down projection
};

struct BlockSlots {
  Slot input;             // [N, C] residual stream that enters
  Slot attention_norm;    // [N, C] pre: output of the norm; post: its input
  Slot attention_branch;  // [N, C] output of attention; residual gate only
  Slot middle;            // [N, C] residual stream between attention and MLP
  Slot mlp_norm;          // [N, C] as attention_norm
  Slot mlp_branch;        // [N, C] residual gate only
  NormSlots attention_stats;
  NormSlots mlp_stats;
  AttentionSlots attention;
  MlpSlots mlp;
};

struct HeadSlots {
  Slot input;   // [N, C] residual stream that leaves the last block
  Slot normed;  // [N, C] after the final norm; pre-norm only
  NormSlots norm;
  Slot transform;    // [N, C] masked_lm: output of the dense layer
  Slot activated;    // [N, C] masked_lm: input of the transform's norm
  Slot transformed;  // [N, C] masked_lm: its output
  NormSlots transform_norm;
  Slot pooler;  // [B, C] classification: output of the dense layer
  Slot pooled;  // [B, C] classification: after tanh and dropout
  Slot logits;  // [N, V] or [B, classes], accumulate, rows logits_stride apart
  // Elements between the rows of the logits: V (classes) on the CPU; on a device rounded up to 64,
  // so that every row, also of the gradient in place of it, begins on 64 bytes whatever the
  // vocabulary, as the device's library wants it of what it multiplies. What lies between is never
  // read. The CPU's library picks its order of summation by the strides too, so there they stay as
  // they are.
  std::int64_t logits_stride = 0;
};

struct GradientSlots {
  Slot stream;          // [N, C] gradient of the residual stream
  Slot branch;          // [N, C] gradient of a branch's output; in forward the branch itself
  Slot inner;           // [N, C] gradient of a branch's input
  Slot wide;            // [N, max(F, HD + 2*kv_width)] gradient inside a branch
  Slot context;         // [N, HD] gradient of attention's context; only where HD is not C
  Slot norm_gain;       // [C] gradients of a norm of head or embeddings, until their bucket opens
  Slot norm_bias;       // [C]
  Slot transform_gain;  // [C] masked_lm
  Slot transform_bias;  // [C] masked_lm
  Slot tied;            // [V, C] accumulate
};

struct PositionSlots {
  Slot cosines;     // [context, D/2] accumulate; rope
  Slot sines;       // [context, D/2] accumulate; rope
  Slot sinusoidal;  // [context, C] compute
};

class ActivationPlan {
 public:
  ActivationPlan(const ModelConfig& config, core::DType compute, std::int64_t max_sequences,
                 core::DeviceType device = core::DeviceType::kCpu,
                 const BackwardPlan& backward = {});

  std::size_t bytes(Region region) const { return bytes_[static_cast<std::size_t>(region)]; }
  Recompute recompute() const { return backward_.recompute; }

  EmbeddingSlots embedding;
  std::vector<BlockSlots> blocks;
  HeadSlots head;
  GradientSlots gradients;
  PositionSlots positions;

 private:
  class Maker;
  std::array<std::size_t, kRegions> bytes_{};
  BackwardPlan backward_;
};

// The plan's regions, allocated on a device (one buffer each), and the plan itself.
class Activations {
 public:
  Activations(const ModelConfig& config, core::DType compute, std::int64_t max_sequences,
              core::DeviceRef device, core::MemoryTracker& memory,
              const BackwardPlan& backward = {});

  const ActivationPlan& plan() const { return plan_; }

  // The front of a slot as `shape`; empty if the model does not have the slot.
  core::TensorView view(const Slot& slot, core::Shape shape) const;

 private:
  ActivationPlan plan_;
  std::array<core::Buffer, kRegions> buffers_;
};

}  // namespace lockstep::models
