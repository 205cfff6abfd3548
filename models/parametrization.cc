#include "models/parametrization.h"

#include <algorithm>
#include <cmath>

namespace lockstep::models {

// A feed-forward width that follows from the width follows from the base width too, rounded as it
// is; another keeps its ratio.
ModelConfig base_model(const ModelConfig& config) {
  ModelConfig base = config;
  base.parametrization = Parametrization::kStandard;
  base.width = config.mup_base_width;
  ModelConfig derived = config;
  derived.ffn_width = 0;
  derive_sizes(derived);
  if (derived.ffn_width == config.ffn_width) {
    base.ffn_width = 0;
    derive_sizes(base);
  } else {
    base.ffn_width = std::max<std::int64_t>(1, config.ffn_width * base.width / config.width);
  }
  return base;
}

double attention_scale(const ModelConfig& config) {
  const auto head = static_cast<double>(config.head_width());
  const double standard = 1.0 / std::sqrt(head);
  if (config.given_head_width > 0) return standard;  // it does not grow with the width
  // In this order, so that the base model has the bits of `standard`.
  return standard * std::sqrt(1.0 / config.width_multiplier());
}

double fan_in_multiplier(const ModelConfig& config, const ParameterTable& base,
                         const ParameterSpec& spec) {
  const bool of_block = spec.group > 0 && spec.group <= static_cast<GroupIndex>(config.layers);
  if (config.parametrization == Parametrization::kStandard || !of_block ||
      spec.role != ParameterRole::kLinearWeight)
    return 1.0;
  const ParameterSpec& of_base = base[base.find(spec.name)];
  return static_cast<double>(spec.shape[1]) / static_cast<double>(of_base.shape[1]);
}

}  // namespace lockstep::models
