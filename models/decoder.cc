#include "models/decoder.h"

#include <vector>

#include "core/check.h"
#include "models/activations.h"
#include "models/block.h"
#include "models/embedding.h"
#include "models/head.h"
#include "models/pass.h"
#include "models/position_tables.h"
#include "ops/cross_entropy.h"

namespace lockstep::models {

struct Decoder::Parts {
  Parts(const ModelConfig& model, const ParameterTable& table, ops::OpContext& op_context,
        core::MemoryTracker& memory)
      : config(model),
        ops(op_context),
        activations(model, core::DType::kF32, 1, op_context.device_ref(), memory),
        embedding(table),
        head(model, table) {
    for (int i = 0; i < static_cast<int>(config.layers); ++i)
      blocks.emplace_back(config, table, i);
    fill_position_tables(ops, config, activations);
  }

  ModelConfig config;
  ops::OpContext& ops;
  Activations activations;  // the slots of keys and values hold those of all positions
  Embedding embedding;
  std::vector<Block> blocks;
  Head head;
};

Decoder::Decoder(const ModelConfig& config, const ParameterTable& table, ops::OpContext& context,
                 core::MemoryTracker& memory)
    : parts_(std::make_unique<Parts>(config, table, context, memory)) {
  LOCKSTEP_CHECK(config.causal() && config.task == Task::kCausalLm, "a decoder of a {} model",
                 config.causal() ? "causal" : "bidirectional");
}

Decoder::~Decoder() = default;

core::ConstTensorView Decoder::append(std::span<const std::int32_t> tokens,
                                      ParameterSource& parameters) {
  const auto count = static_cast<std::int64_t>(tokens.size());
  LOCKSTEP_CHECK(count > 0 && length_ + count <= parts_->config.context,
                 "{} tokens behind {} in a context of {}", count, length_, parts_->config.context);
  MicroBatch batch;
  batch.sequences = 1;
  batch.length = count;
  batch.inputs = tokens;
  const Pass pass{parts_->config,     parts_->ops, parts_->activations,
                  /*seed=*/0,         batch,       parameters,
                  /*training=*/false, length_};
  const ActivationPlan& plan = parts_->activations.plan();
  parts_->embedding.forward(pass, pass.stream(plan.blocks.front().input));
  for (std::size_t i = 0; i < parts_->blocks.size(); ++i) {
    const bool last = i + 1 == parts_->blocks.size();
    parts_->blocks[i].forward(pass, plan.blocks[i],
                              pass.stream(last ? plan.head.input : plan.blocks[i + 1].input));
  }
  const core::TensorView logits = parts_->head.forward(pass);
  if (parts_->config.logit_softcap > 0.0)
    ops::softcap_logits(parts_->ops, parts_->config.logit_softcap, logits);
  length_ += count;
  return logits;
}

}  // namespace lockstep::models
