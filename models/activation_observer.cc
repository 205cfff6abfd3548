#include "models/activation_observer.h"

namespace lockstep::models {

namespace {

// Tells of the slots of one layer that this model has.
class LayerTeller {
 public:
  LayerTeller(const Pass& pass, int layer, const ActivationObserver& observer)
      : pass_(pass), layer_(layer), observer_(observer) {}

  void tell(const char* name, const Slot& slot, std::int64_t cols) const {
    const core::TensorView values = pass_.tokens(slot, cols);
    if (!values.empty()) observer_({layer_, name, values});
  }
  void tell(const char* name, core::ConstTensorView values) const {
    observer_({layer_, name, values});
  }

 private:
  const Pass& pass_;
  int layer_;
  const ActivationObserver& observer_;
};

}  // namespace

void observe_block(const Pass& pass, const BlockSlots& slots, int layer,
                   core::ConstTensorView output, const ActivationObserver& observer) {
  const ModelConfig& c = pass.config;
  const bool pre = c.norm_position == NormPosition::kPre;
  const LayerTeller layer_teller(pass, layer, observer);
  if (pre) layer_teller.tell("attention_norm", slots.attention_norm, c.width);
  layer_teller.tell("attention.qkv", slots.attention.qkv, c.qkv_width());
  layer_teller.tell("attention.qk_normed", slots.attention.qk, c.q_width() + c.kv_width());
  layer_teller.tell("attention.context", slots.attention.context, c.q_width());
  layer_teller.tell("attention.output", slots.attention_branch, c.width);
  if (!pre) layer_teller.tell("attention.residual", slots.attention_norm, c.width);
  layer_teller.tell(pre ? "attention.residual" : "attention_norm", slots.middle, c.width);
  if (pre) layer_teller.tell("mlp_norm", slots.mlp_norm, c.width);
  layer_teller.tell("mlp.gate", slots.mlp.gate, c.ffn_width);
  layer_teller.tell("mlp.up", slots.mlp.up, c.ffn_width);
  layer_teller.tell("mlp.activated", slots.mlp.activated, c.ffn_width);
  layer_teller.tell("mlp.output", slots.mlp_branch, c.width);
  if (!pre) layer_teller.tell("mlp.residual", slots.mlp_norm, c.width);
  layer_teller.tell("output", output);
}

void observe_head(const Pass& pass, core::ConstTensorView logits,
                  const ActivationObserver& observer) {
  const HeadSlots& slots = pass.activations.plan().head;
  const LayerTeller layer_teller(pass, static_cast<int>(pass.config.layers), observer);
  layer_teller.tell("norm", slots.normed, pass.config.width);
  layer_teller.tell("transform", slots.transform, pass.config.width);
  layer_teller.tell("transform.activated", slots.activated, pass.config.width);
  layer_teller.tell("transform.norm", slots.transformed, pass.config.width);
  layer_teller.tell("logits", logits);
}

}  // namespace lockstep::models
