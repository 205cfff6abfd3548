#pragma once

#include <functional>
#include <string>

#include "core/tensor.h"
#include "models/activations.h"
#include "models/pass.h"

namespace lockstep::models {

// One activation of a training forward, in the compute type (logits: fp32): [rows, cols], rows in
// the order of the micro-batch's tokens (classification logits: of its sequences).
struct ActivationView {
  int layer = 0;     // Transformer::kNonFiniteEmbeddings, a block, or `layers` for the head
  std::string name;  // within the layer: "attention.qkv", "mlp.activated", "output", ...
  core::ConstTensorView values;
};

// Called in the order in which the model computes; the values are valid during the call only.
using ActivationObserver = std::function<void(const ActivationView&)>;

// What Block::forward() left behind, `output` last.
void observe_block(const Pass& pass, const BlockSlots& slots, int layer,
                   core::ConstTensorView output, const ActivationObserver& observer);

// What Head::forward() left behind, `logits` last.
void observe_head(const Pass& pass, core::ConstTensorView logits,
                  const ActivationObserver& observer);

}  // namespace lockstep::models
