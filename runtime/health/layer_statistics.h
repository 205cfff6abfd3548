#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "comm/communicator.h"
#include "core/memory.h"
#include "models/parameter_table.h"
#include "models/transformer.h"
#include "ops/op_context.h"
#include "runtime/config/config.h"
#include "runtime/health/activation_meter.h"
#include "runtime/health/gradient_census.h"
#include "runtime/metrics/layer_lines.h"
#include "runtime/optimizer/update_changes.h"
#include "runtime/sharding/bucket_layout.h"
#include "runtime/sharding/gradient_buckets.h"
#include "runtime/sharding/gradient_norm.h"
#include "runtime/sharding/model_state.h"
#include "runtime/step/step_decision.h"

namespace lockstep::runtime {

// Measures gradients, weights, updates and activations of every layer, on the CPU, in the steps
// that a `layers` or `histogram` line is due for (metrics.per_layer_every, histograms_every). Each
// rank measures its own shard and its own micro-batches; the parts are exact sums, counts and
// maxima, so what finish() makes of them does not depend on how the work was dealt out.
//
// A step that is due is: begin(), its forwards and backwards, end_passes(), measure(); if it is
// applied, the update with changes(); finish(). Every step: count().
class LayerStatistics {
 public:
  LayerStatistics(const Config& config, const models::ParameterTable& table,
                  const BucketLayout& layout, ModelState& state, const GradientBuckets& gradients,
                  int rank, ops::OpContext& context, core::MemoryTracker& memory);

  // Whether this configuration has anything measured.
  static bool wanted(const Config& config);
  bool layers_due(std::int64_t step) const;
  bool histograms_due(std::int64_t step) const;
  bool due(std::int64_t step) const { return layers_due(step) || histograms_due(step); }

  void begin(models::Transformer& model);
  void end_passes(models::Transformer& model);
  // Of the aggregated gradient, which `norm` has measured already, and of the masters.
  void measure(const ShardNorm& norm);
  UpdateChanges& changes() { return changes_; }

  void count(const StepDecision& decision, double coefficient);
  // Collective. What it says of clipping begins anew when a `layers` line is due.
  LayerReport finish(std::int64_t step, double loss_scale, const StepDecision& decision,
                     comm::Communicator& communicator);

  // What the constructor allocates, by region.
  static std::size_t result_bytes(const BucketLayout& layout, int rank) {
    return 2 * ShardNorm::bytes(layout, rank);
  }
  static std::size_t layer_bytes() { return UpdateChanges::bytes(); }

 private:
  // Of one tensor, or of all tensors of a group: a rank's part, or everything.
  struct Part {
    ops::ExactSum gradient;  // squares, of the scaled gradient
    ops::ExactSum weight;
    ops::ExactSum change;
    GradientCensus census;  // of the scaled gradient

    void merge(const Part& other);
    std::string packed() const;
    static Part unpack(std::string_view& bytes);
  };

  std::vector<Part> own_parts(bool applied) const;
  std::vector<Part> by_group(const std::vector<Part>& tensors) const;
  void exchange(std::vector<Part>& parts, std::vector<LayerActivity>& layers,
                comm::Communicator& communicator) const;
  Measured measured(const Part& part, const StepDecision& decision) const;
  static void add_activity(const LayerActivity& activity, Measured& layer);
  void judge_scale(const std::vector<Part>& groups, double unscale, LayerReport& report) const;

  const Config& config_;
  const models::ParameterTable& table_;
  const BucketLayout& layout_;
  ModelState& state_;
  const GradientBuckets& gradients_;
  int rank_;
  ops::OpContext& context_;
  ActivationMeter activations_;
  ShardNorm weights_;
  ShardNorm changed_;
  UpdateChanges changes_;
  std::vector<ops::ExactSum> gradient_squares_;  // by parameter, as the two below
  std::vector<GradientCensus> census_;
  std::int64_t applied_steps_ = 0;
  std::int64_t clipped_steps_ = 0;
};

}  // namespace lockstep::runtime
