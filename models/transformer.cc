#include "models/transformer.h"

#include <limits>
#include <optional>
#include <utility>

#include "core/check.h"
#include "models/activations.h"
#include "models/block.h"
#include "models/embedding.h"
#include "models/head.h"
#include "models/pass.h"
#include "models/position_tables.h"
#include "ops/cross_entropy.h"
#include "ops/first_nonfinite.h"
#include "ops/results.h"
#include "ops/rope.h"
#include "ops/transfer.h"

namespace lockstep::models {

void fill_position_tables(ops::OpContext& context, const ModelConfig& config,
                          const Activations& activations) {
  const PositionSlots& slots = activations.plan().positions;
  if (config.positions == Positions::kRope) {
    const core::Shape shape{config.context, config.head_width() / 2};
    ops::fill_rope_table(context, config.rope_theta, config.rope_scaling,
                         activations.view(slots.cosines, shape),
                         activations.view(slots.sines, shape));
  } else if (config.positions == Positions::kSinusoidal) {
    const core::TensorView table =
        activations.view(slots.sinusoidal, {config.context, config.width});
    std::vector<std::byte> values(table.bytes());
    fill_sinusoidal({values.data(), table.dtype(), table.shape()});
    ops::from_host(context, values.data(), table);
  }
}

namespace {

// The first position whose target counts, so that a NaN there reaches the loss whatever is ignored.
std::int64_t first_counted_row(const Pass& pass) {
  if (pass.config.task == Task::kClassification) {
    for (std::int64_t b = 0; b < pass.batch.sequences; ++b) {
      if (pass.batch.targets[static_cast<std::size_t>(b)] != ops::kIgnored)
        return b * pass.batch.length;
    }
    return 0;
  }
  for (std::size_t n = 0; n < pass.batch.targets.size(); ++n) {
    if (pass.batch.targets[n] != ops::kIgnored) return static_cast<std::int64_t>(n);
  }
  return 0;
}

void poison(const Pass& pass, core::TensorView x) {
  core::visit_floating(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using Wide = core::AccumulateT<T>;
    const auto nan = static_cast<T>(std::numeric_limits<Wide>::quiet_NaN());
    const std::int64_t row = first_counted_row(pass);
    ops::from_host(pass.ops, &nan, x.slice_rows(row, row + 1).slice_cols(0, 1));
  });
}

}  // namespace

struct Transformer::Parts {
  Parts(const ModelConfig& model_config, const ParameterTable& parameter_table,
        core::DType compute_type, std::int64_t sequences, std::uint64_t run_seed,
        ops::OpContext& op_context, core::MemoryTracker& memory, Recompute recompute)
      : config(model_config),
        table(parameter_table),
        max_sequences(sequences),
        seed(run_seed),
        ops(op_context),
        activations(model_config, compute_type, sequences, op_context.device_ref(), memory,
                    backward_plan(parameter_table, recompute)),
        losses(op_context, 1, memory),
        embedding(parameter_table),
        head(model_config, parameter_table) {
    for (int i = 0; i < static_cast<int>(config.layers); ++i)
      blocks.emplace_back(config, table, i);
    fill_position_tables(op_context, config, activations);
  }

  Pass make_pass(const MicroBatch& batch, ParameterSource& parameters, bool training) {
    return {config, ops, activations, seed, batch, parameters, training};
  }

  void check(const MicroBatch& batch, bool needs_targets) const;
  core::TensorView forward_to_logits(const Pass& pass);
  void find_nonfinite_layer(const Pass& pass, ops::LossSums* sums);
  ops::LossSums fetch_losses() {
    losses.fetch();
    ops.wait();
    return losses[0];
  }

  ModelConfig config;
  ParameterTable table;
  std::int64_t max_sequences;
  std::uint64_t seed;
  ops::OpContext& ops;
  Activations activations;
  ops::Results<ops::LossSums> losses;          // of a pass that is waited for
  std::vector<std::int32_t> inputs;            // of the forward whose backward has not run
  std::vector<core::ConstTensorView> streams;  // of find_nonfinite_layer()
  Embedding embedding;
  std::vector<Block> blocks;
  Head head;
  ActivationObserver observer;
  std::optional<MicroBatch> pending;  // of that forward; `targets` is empty
};

void Transformer::Parts::check(const MicroBatch& batch, bool needs_targets) const {
  LOCKSTEP_CHECK(1 <= batch.sequences && batch.sequences <= max_sequences,
                 "micro-batch of {} sequences; the model was made for 1 to {}", batch.sequences,
                 max_sequences);
  LOCKSTEP_CHECK(1 <= batch.length && batch.length <= config.context,
                 "sequences of {} tokens; the context is {}", batch.length, config.context);
  const std::int64_t rows = batch.sequences * batch.length;
  LOCKSTEP_CHECK_EQ(static_cast<std::int64_t>(batch.inputs.size()), rows,
                    "tokens of a micro-batch");
  const std::int64_t targets = config.task == Task::kClassification ? batch.sequences : rows;
  if (needs_targets || !batch.targets.empty()) {
    LOCKSTEP_CHECK_EQ(static_cast<std::int64_t>(batch.targets.size()), targets,
                      "targets of a micro-batch");
  }
  LOCKSTEP_CHECK(batch.poison_block < static_cast<int>(config.layers), "poisoned block {} of {}",
                 batch.poison_block, config.layers);
}

core::TensorView Transformer::Parts::forward_to_logits(const Pass& pass) {
  const ActivationPlan& plan = activations.plan();
  const bool observed = observer && pass.training;
  embedding.forward(pass, pass.stream(plan.blocks.front().input));
  if (observed) observer({kNonFiniteEmbeddings, "output", pass.stream(plan.blocks.front().input)});
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const bool last = i + 1 == blocks.size();
    const core::TensorView output = pass.stream(last ? plan.head.input : plan.blocks[i + 1].input);
    blocks[i].forward(pass, plan.blocks[i], output);
    if (pass.batch.poison_block == static_cast<int>(i)) poison(pass, output);
    if (observed) observe_block(pass, plan.blocks[i], static_cast<int>(i), output, observer);
  }
  const core::TensorView logits = head.forward(pass);
  if (observed) observe_head(pass, logits, observer);
  return logits;
}

// Of what enters each block and the head, number i left layer i - 1.
void Transformer::Parts::find_nonfinite_layer(const Pass& pass, ops::LossSums* sums) {
  streams.clear();
  for (const BlockSlots& block : activations.plan().blocks)
    streams.emplace_back(pass.stream(block.input));
  streams.emplace_back(pass.stream(activations.plan().head.input));
  ops::first_nonfinite(ops, streams, &sums->optimised, &sums->nonfinite_layer,
                       kNonFiniteEmbeddings);
}

Transformer::Transformer(const ModelConfig& config, const ParameterTable& table,
                         core::DType compute, std::int64_t max_sequences, std::uint64_t seed,
                         ops::OpContext& context, core::MemoryTracker& memory, Recompute recompute)
    : parts_(std::make_unique<Parts>(config, table, compute, max_sequences, seed, context, memory,
                                     recompute)) {}

Transformer::~Transformer() = default;

void Transformer::forward(const MicroBatch& batch, const ops::LossOptions& loss,
                          ParameterSource& parameters, ops::LossSums* sums) {
  parts_->check(batch, true);
  parts_->pending.reset();
  const Pass pass = parts_->make_pass(batch, parameters, true);
  parts_->forward_to_logits(pass);
  parts_->head.loss(pass, batch.targets, loss, true, sums);
  parts_->find_nonfinite_layer(pass, sums);
  parts_->inputs.assign(batch.inputs.begin(), batch.inputs.end());
  parts_->pending = batch;
  parts_->pending->inputs = parts_->inputs;
  parts_->pending->targets = {};
}

ops::LossSums Transformer::forward(const MicroBatch& batch, const ops::LossOptions& loss,
                                   ParameterSource& parameters) {
  forward(batch, loss, parameters, parts_->losses.at());
  return parts_->fetch_losses();
}

void Transformer::backward(ParameterSource& parameters, GradientSink& gradients) {
  LOCKSTEP_CHECK(parts_->pending.has_value(), "backward without a forward before it");
  const MicroBatch batch = *parts_->pending;
  parts_->pending.reset();
  const Pass pass = parts_->make_pass(batch, parameters, true);
  const core::TensorView dstream = pass.stream(pass.gradients().stream);

  parts_->head.backward(pass, parts_->table, gradients, dstream);
  const ActivationPlan& plan = parts_->activations.plan();
  const GroupIndex first = parts_->table.first_trained_group();
  for (std::size_t i = parts_->blocks.size(); i-- > 0;) {
    if (static_cast<GroupIndex>(i) + 1 < first) return;  // all that is left is frozen
    const bool last = i + 1 == parts_->blocks.size();    // what forward left is still its own
    if (plan.recompute() != Recompute::kNone && !last)
      parts_->blocks[i].recompute(pass, plan.blocks[i]);
    BlockGradients bucket(gradients, parts_->table, static_cast<GroupIndex>(i) + 1);
    parts_->blocks[i].backward(pass, plan.blocks[i], bucket, dstream);
    bucket.finish();
  }
  if (first == 0) parts_->embedding.backward(pass, parts_->table, gradients, dstream);
}

void Transformer::observe(ActivationObserver observer) {
  parts_->observer = std::move(observer);
}

ops::LossSums Transformer::evaluate(const MicroBatch& batch, ParameterSource& parameters) {
  parts_->check(batch, true);
  parts_->pending.reset();
  const Pass pass = parts_->make_pass(batch, parameters, false);
  parts_->forward_to_logits(pass);
  parts_->head.loss(pass, batch.targets, {}, false, parts_->losses.at());
  return parts_->fetch_losses();
}

core::ConstTensorView Transformer::logits(const MicroBatch& batch, ParameterSource& parameters) {
  parts_->check(batch, false);
  parts_->pending.reset();
  const Pass pass = parts_->make_pass(batch, parameters, false);
  const core::TensorView z = parts_->forward_to_logits(pass);
  if (parts_->config.logit_softcap > 0.0)
    ops::softcap_logits(parts_->ops, parts_->config.logit_softcap, z);
  return z;
}

std::vector<MemoryRegion> Transformer::memory_regions(const ModelConfig& config,
                                                      core::DType compute,
                                                      std::int64_t max_sequences,
                                                      core::DeviceType device,
                                                      const BackwardPlan& backward) {
  const ActivationPlan plan(config, compute, max_sequences, device, backward);
  std::vector<MemoryRegion> regions;
  for (int r = 0; r < kRegions; ++r) {
    const auto region = static_cast<Region>(r);
    if (plan.bytes(region) > 0) regions.push_back({region_name(region), plan.bytes(region)});
  }
  regions.push_back({ops::kResultsRegion, sizeof(ops::LossSums)});
  return regions;
}

}  // namespace lockstep::models
