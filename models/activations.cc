#include "models/activations.h"

#include <algorithm>

#include "core/check.h"
#include "models/parameter_table.h"

namespace lockstep::models {

const char* region_name(Region region) {
  switch (region) {
    case Region::kActivations:
      return "activations";
    case Region::kLogits:
      return "logits";
    case Region::kActivationGradients:
      return "activation_gradients";
    case Region::kTiedGradient:
      return "tied_gradient";
    case Region::kPositionTables:
      return "position_tables";
  }
  core::fail_check(__FILE__, __LINE__, "region", "unknown region");
}

BackwardPlan backward_plan(const ParameterTable& table, Recompute recompute) {
  const ParameterId tokens = table.find("embeddings.token.weight");
  return {recompute, table.first_trained_group(), !table[tokens].frozen};
}

// Hands out slots, 256-byte aligned (what matrix products of a GPU like best), in the order of the
// calls.
class ActivationPlan::Maker {
 public:
  Maker(const ModelConfig& config, core::DType compute, std::int64_t max_sequences,
        core::DeviceType device, ActivationPlan& plan)
      : c_(config),
        compute_(compute),
        accumulate_(core::accumulate_dtype(compute)),
        sequences_(max_sequences),
        tokens_(max_sequences * config.context),
        device_(device),
        plan_(plan) {}

  EmbeddingSlots embedding() {
    EmbeddingSlots slots;
    if (c_.embedding_norm()) {
      slots.sum = stream();
      slots.norm = norm();
    }
    return slots;
  }

  // first: the slots of block 0, where what is shared lies; null for block 0 itself.
  BlockSlots block(int layer, const BlockSlots* first) {
    const BackwardPlan& backward = plan_.backward_;
    const bool no_backward = layer + 1 < backward.first_group;
    if (first != nullptr && (no_backward || backward.recompute == Recompute::kBlock)) {
      BlockSlots slots = *first;
      slots.input = stream();
      return slots;
    }
    const bool shares = first != nullptr && backward.recompute == Recompute::kAttention;
    const bool shares_norm = shares && c_.norm_position == NormPosition::kPre;
    const bool gates = c_.residual_gate == ResidualGate::kScalar;
    BlockSlots slots;
    slots.input = stream();
    slots.attention_norm = shares_norm ? first->attention_norm : stream();
    slots.attention_stats = norm();
    slots.attention = shares ? first->attention : attention();
    if (gates) slots.attention_branch = stream();
    slots.middle = stream();
    slots.mlp_norm = stream();
    slots.mlp_stats = norm();
    slots.mlp = mlp();
    if (gates) slots.mlp_branch = stream();
    return slots;
  }

  HeadSlots head() {
    HeadSlots slots;
    slots.input = stream();
    if (c_.final_norm()) {
      slots.normed = stream();
      slots.norm = norm();
    }
    if (c_.task == Task::kClassification) {
      slots.pooler = kept(sequences_ * c_.width, compute_);
      slots.pooled = kept(sequences_ * c_.width, compute_);
      set_logits(slots, sequences_, c_.classes);
      return slots;
    }
    if (c_.task == Task::kMaskedLm) {
      slots.transform = stream();
      slots.activated = stream();
      slots.transformed = stream();
      slots.transform_norm = norm();
    }
    set_logits(slots, tokens_, c_.vocab);
    return slots;
  }

  GradientSlots gradients() {
    const std::int64_t wide = std::max(c_.ffn_width, c_.qkv_width());
    GradientSlots slots;
    slots.stream = passed(tokens_ * c_.width);
    slots.branch = passed(tokens_ * c_.width);
    slots.inner = passed(tokens_ * c_.width);
    slots.wide = passed(tokens_ * wide);
    if (c_.q_width() != c_.width) slots.context = passed(tokens_ * c_.q_width());
    slots.norm_gain = passed(c_.width);
    slots.norm_bias = passed(c_.width);
    if (c_.task == Task::kMaskedLm) {
      slots.transform_gain = passed(c_.width);
      slots.transform_bias = passed(c_.width);
    }
    if (c_.tie_embeddings && plan_.backward_.tied_gradient)
      slots.tied = make(Region::kTiedGradient, c_.vocab * c_.width, accumulate_);
    return slots;
  }

  PositionSlots positions() {
    PositionSlots slots;
    if (c_.positions == Positions::kRope) {
      const std::int64_t n = c_.context * (c_.head_width() / 2);
      slots.cosines = make(Region::kPositionTables, n, accumulate_);
      slots.sines = make(Region::kPositionTables, n, accumulate_);
    } else if (c_.positions == Positions::kSinusoidal) {
      slots.sinusoidal = make(Region::kPositionTables, c_.context * c_.width, compute_);
    }
    return slots;
  }

 private:
  AttentionSlots attention() {
    AttentionSlots slots;
    slots.qkv = kept(tokens_ * c_.qkv_width(), compute_);
    if (c_.qk_norm) {
      slots.qk = kept(tokens_ * (c_.q_width() + c_.kv_width()), compute_);
      slots.q_rstd = kept(tokens_ * c_.heads, accumulate_);
      slots.k_rstd = kept(tokens_ * c_.kv_heads, accumulate_);
    }
    slots.context = kept(tokens_ * c_.q_width(), compute_);
    slots.lse = kept(tokens_ * c_.heads, accumulate_);
    return slots;
  }

  MlpSlots mlp() {
    MlpSlots slots;
    if (c_.gated()) slots.gate = kept(tokens_ * c_.ffn_width, compute_);
    slots.up = kept(tokens_ * c_.ffn_width, compute_);
    slots.activated = kept(tokens_ * c_.ffn_width, compute_);
    return slots;
  }

  void set_logits(HeadSlots& slots, std::int64_t rows, std::int64_t cols) {
    constexpr std::int64_t kUnit = 64;
    const bool on_cpu = device_ == core::DeviceType::kCpu;
    slots.logits_stride = on_cpu ? cols : (cols + kUnit - 1) / kUnit * kUnit;
    slots.logits = make(Region::kLogits, rows * slots.logits_stride, accumulate_);
  }

  NormSlots norm() {
    NormSlots slots;
    if (c_.norm == NormKind::kLayerNorm) slots.mean = kept(tokens_, accumulate_);
    slots.rstd = kept(tokens_, accumulate_);
    return slots;
  }

  Slot stream() { return kept(tokens_ * c_.width, compute_); }
  Slot kept(std::int64_t elements, core::DType dtype) {
    return make(Region::kActivations, elements, dtype);
  }
  Slot passed(std::int64_t elements) {
    return make(Region::kActivationGradients, elements, compute_);
  }

  Slot make(Region region, std::int64_t elements, core::DType dtype) {
    constexpr std::size_t kAlignment = 256;
    std::size_t& end = plan_.bytes_[static_cast<std::size_t>(region)];
    const std::size_t bytes = static_cast<std::size_t>(elements) * core::size_of(dtype);
    const Slot slot{region, end, bytes, dtype};
    end += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return slot;
  }

  const ModelConfig& c_;
  core::DType compute_;
  core::DType accumulate_;
  std::int64_t sequences_;
  std::int64_t tokens_;
  core::DeviceType device_;
  ActivationPlan& plan_;
};

ActivationPlan::ActivationPlan(const ModelConfig& config, core::DType compute,
                               std::int64_t max_sequences, core::DeviceType device,
                               const BackwardPlan& backward)
    : backward_(backward) {
  Maker maker(config, compute, max_sequences, device, *this);
  embedding = maker.embedding();
  blocks.reserve(static_cast<std::size_t>(config.layers));
  for (int layer = 0; layer < static_cast<int>(config.layers); ++layer)
    blocks.push_back(maker.block(layer, layer == 0 ? nullptr : &blocks.front()));
  head = maker.head();
  gradients = maker.gradients();
  positions = maker.positions();
}

Activations::Activations(const ModelConfig& config, core::DType compute, std::int64_t max_sequences,
                         core::DeviceRef device, core::MemoryTracker& memory,
                         const BackwardPlan& backward)
    : plan_(config, compute, max_sequences, device.device.type, backward) {
  for (int r = 0; r < kRegions; ++r) {
    const auto region = static_cast<Region>(r);
    buffers_[static_cast<std::size_t>(r)] =
        core::Buffer(memory, region_name(region), plan_.bytes(region), device);
  }
}

core::TensorView Activations::view(const Slot& slot, core::Shape shape) const {
  if (slot.bytes == 0) return {};
  const std::size_t bytes = static_cast<std::size_t>(shape.elements()) * core::size_of(slot.dtype);
  LOCKSTEP_CHECK_LE(bytes, slot.bytes, "bytes of a view into its slot");
  return buffers_[static_cast<std::size_t>(slot.region)].view(slot.dtype, shape, slot.offset);
}

}  // namespace lockstep::models
