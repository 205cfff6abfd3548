#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "models/activation_observer.h"
#include "models/model_config.h"
#include "ops/exact_sum.h"
#include "ops/op_context.h"
#include "runtime/health/attention_meter.h"

namespace lockstep::runtime {

// What one layer put out, over all micro-batches that were seen. Sums are exact, so that parts of
// several ranks add up to the same bits in any order.
struct LayerActivity {
  ops::ExactSum squares;
  std::int64_t elements = 0;
  double greatest = 0.0;  // magnitude; not finite as soon as an element is not
  AttentionScores attention;
  std::vector<char> alive;  // by unit of the MLP: left [-kDead, kDead] on some token; blocks only

  void merge(const LayerActivity& other);
  std::string packed() const;
  // Takes what packed() wrote off the front of `bytes`.
  static LayerActivity unpack(std::string_view& bytes);
};

// Measures activations as a model's training forwards compute them (Transformer::observe()), on the
// CPU: embeddings, blocks and head.
class ActivationMeter {
 public:
  static constexpr double kDead = 1e-3;

  ActivationMeter(const models::ModelConfig& config, ops::OpContext& context);

  void clear();
  void see(const models::ActivationView& view);

  std::vector<LayerActivity>& layers() { return layers_; }  // 1 + layers + 1

 private:
  void see_output(core::ConstTensorView values, LayerActivity& layer) const;
  void see_units(core::ConstTensorView values, LayerActivity& layer) const;
  void see_attention(core::ConstTensorView qk, int block, LayerActivity& layer) const;

  const models::ModelConfig& config_;
  ops::OpContext& context_;
  std::vector<LayerActivity> layers_;
};

}  // namespace lockstep::runtime
