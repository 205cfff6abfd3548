#include "models/parameter_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "core/check.h"
#include "core/random.h"
#include "models/parametrization.h"

namespace lockstep::models {

namespace {

constexpr InitRule kZeros{InitRule::Kind::kZeros, 0.0};
constexpr InitRule kOnes{InitRule::Kind::kOnes, 0.0};

// What a linear layer writes: into the residual stream (attention.out, mlp.down) or elsewhere.
enum class LinearOutput { kInner, kResidual };

// Glorot & Bengio 2010 (Xavier), He et al. 2015 (Kaiming, gain sqrt(2), fan_in), as in PyTorch's
// torch.nn.init; gpt2: normal(init_std), residual outputs divided by sqrt(2L) (Radford et al.
// 2019).
InitRule linear_init(const ModelConfig& config, double fan_out, double fan_in,
                     LinearOutput output) {
  switch (config.init) {
    case InitKind::kGpt2: {
      const bool residual = output == LinearOutput::kResidual;
      const double depth = std::sqrt(2.0 * static_cast<double>(config.layers));
      return {InitRule::Kind::kNormal, residual ? config.init_std / depth : config.init_std};
    }
    case InitKind::kXavierUniform:
      return {InitRule::Kind::kUniform, std::sqrt(6.0 / (fan_in + fan_out))};
    case InitKind::kXavierNormal:
      return {InitRule::Kind::kNormal, std::sqrt(2.0 / (fan_in + fan_out))};
    case InitKind::kKaimingUniform:
      return {InitRule::Kind::kUniform, std::sqrt(6.0 / fan_in)};
    case InitKind::kKaimingNormal:
      return {InitRule::Kind::kNormal, std::sqrt(2.0 / fan_in)};
  }
  core::fail_check(__FILE__, __LINE__, "init", "unknown kind of initialisation");
}

// Makes the specs of one group; `name` is appended to the group's prefix.
class SpecMaker {
 public:
  SpecMaker(const ModelConfig& config, std::string prefix, GroupIndex group)
      : config_(config), prefix_(std::move(prefix)), group_(group) {}

  ParameterSpec weight(const std::string& name, std::int64_t out, std::int64_t in,
                       LinearOutput output = LinearOutput::kInner) const {
    const InitRule init =
        linear_init(config_, static_cast<double>(out), static_cast<double>(in), output);
    return make(name, {out, in}, ParameterRole::kLinearWeight, init, true);
  }
  ParameterSpec embedding(const std::string& name, std::int64_t rows) const {
    return make(name, {rows, config_.width}, ParameterRole::kEmbedding,
                {InitRule::Kind::kNormal, config_.init_std}, true);
  }
  ParameterSpec bias(const std::string& name, std::int64_t n) const {
    return make(name, {n}, ParameterRole::kBias, kZeros, false);
  }
  ParameterSpec gain(const std::string& name, std::int64_t n) const {
    return make(name, {n}, ParameterRole::kNormGain, kOnes, false);
  }
  ParameterSpec norm_bias(const std::string& name, std::int64_t n) const {
    return make(name, {n}, ParameterRole::kNormBias, kZeros, false);
  }
  ParameterSpec gate(const std::string& name) const {
    return make(name, {1}, ParameterRole::kGate, kOnes, false);
  }

  // A linear layer: weight, and bias where the model has biases.
  std::vector<ParameterSpec> linear(const std::string& name, std::int64_t out, std::int64_t in,
                                    LinearOutput output = LinearOutput::kInner) const {
    std::vector<ParameterSpec> specs{weight(name + ".weight", out, in, output)};
    if (config_.linear_bias()) specs.push_back(bias(name + ".bias", out));
    return specs;
  }
  // A projection of queries, keys or values; they may have a bias where no other layer has.
  std::vector<ParameterSpec> qkv(const std::string& name, std::int64_t out) const {
    std::vector<ParameterSpec> specs{weight(name + ".weight", out, config_.width)};
    if (config_.qkv_bias()) specs.push_back(bias(name + ".bias", out));
    return specs;
  }
  // A norm over the width: gain, and bias for a LayerNorm that has one.
  std::vector<ParameterSpec> norm(const std::string& name) const {
    std::vector<ParameterSpec> specs{gain(name + ".weight", config_.width)};
    if (config_.norm_bias()) specs.push_back(norm_bias(name + ".bias", config_.width));
    return specs;
  }

 private:
  ParameterSpec make(const std::string& name, core::Shape shape, ParameterRole role, InitRule init,
                     bool decays) const {
    return {prefix_ + name, shape, role, init, group_, decays, false, 1.0};
  }

  const ModelConfig& config_;
  std::string prefix_;
  GroupIndex group_;
};

}  // namespace

ParameterTable::ParameterTable(const ModelConfig& config)
    : groups_(static_cast<int>(config.layers) + 2) {
  add_embeddings(config);
  for (int layer = 0; layer < static_cast<int>(config.layers); ++layer)
    add_block(config, layer);
  add_head(config);
  if (config.parametrization == Parametrization::kMup) scale_for_width(config);
}

void ParameterTable::add_embeddings(const ModelConfig& config) {
  const SpecMaker make(config, "embeddings.", 0);
  add(make.embedding("token.weight", config.vocab));
  if (config.positions == Positions::kLearned)
    add(make.embedding("position.weight", config.context));
  if (config.token_types > 0) add(make.embedding("token_type.weight", config.token_types));
  if (config.embedding_norm()) add_all(make.norm("norm"));
}

void ParameterTable::add_block(const ModelConfig& config, int layer) {
  const SpecMaker make(config, fmt::format("block.{}.", layer), layer + 1);
  const std::int64_t width = config.width;
  const bool gates = config.residual_gate == ResidualGate::kScalar;
  add_all(make.norm("attention_norm"));
  if (config.family == Family::kGpt) {
    add_all(make.qkv("attention.qkv", config.qkv_width()));
  } else {
    add_all(make.qkv("attention.q", config.q_width()));
    add_all(make.qkv("attention.k", config.kv_width()));
    add_all(make.qkv("attention.v", config.kv_width()));
  }
  if (config.qk_norm) {
    add(make.gain("attention.q_norm.weight", config.head_width()));
    add(make.gain("attention.k_norm.weight", config.head_width()));
  }
  add_all(make.linear("attention.out", width, config.q_width(), LinearOutput::kResidual));
  if (gates) add(make.gate("attention.residual_gate"));
  add_all(make.norm("mlp_norm"));
  if (config.gated()) add_all(make.linear("mlp.gate", config.ffn_width, width));
  add_all(make.linear("mlp.up", config.ffn_width, width));
  add_all(make.linear("mlp.down", width, config.ffn_width, LinearOutput::kResidual));
  if (gates) add(make.gate("mlp.residual_gate"));
}

void ParameterTable::add_head(const ModelConfig& config) {
  const SpecMaker make(config, "head.", static_cast<int>(config.layers) + 1);
  if (config.final_norm()) add_all(make.norm("norm"));
  if (config.task == Task::kClassification) {
    add_all(make.linear("pooler", config.width, config.width));
    add_all(make.linear("classifier", config.classes, config.width));
    return;
  }
  if (config.task == Task::kMaskedLm) {
    add_all(make.linear("transform", config.width, config.width));
    add_all(make.norm("transform_norm"));
  }
  if (!config.tie_embeddings) add(make.weight("weight", config.vocab, config.width));
  if (config.task == Task::kMaskedLm && config.linear_bias()) add(make.bias("bias", config.vocab));
}

// Initial deviations are those of the base model, of matrices over the root of their multiplier.
void ParameterTable::scale_for_width(const ModelConfig& config) {
  const ParameterTable base(base_model(config));
  for (ParameterSpec& spec : specs_) {
    spec.width_multiplier = fan_in_multiplier(config, base, spec);
    spec.init.scale = base[base.find(spec.name)].init.scale / std::sqrt(spec.width_multiplier);
  }
}

ParameterId ParameterTable::add(ParameterSpec spec) {
  LOCKSTEP_CHECK(find(spec.name) == kNoParameter, "two parameters named {}", spec.name);
  ids_.emplace(spec.name, size());
  specs_.push_back(std::move(spec));
  return size() - 1;
}

void ParameterTable::add_all(std::vector<ParameterSpec> specs) {
  for (ParameterSpec& spec : specs)
    add(std::move(spec));
}

std::string ParameterTable::group_name(GroupIndex group) const {
  LOCKSTEP_CHECK(0 <= group && group < groups_, "group {} of {}", group, groups_);
  if (group == 0) return "embeddings";
  if (group == groups_ - 1) return "head";
  return fmt::format("block.{}", group - 1);
}

std::vector<ParameterId> ParameterTable::in_group(GroupIndex group) const {
  std::vector<ParameterId> ids;
  for (ParameterId id = 0; id < size(); ++id) {
    if ((*this)[id].group == group) ids.push_back(id);
  }
  return ids;
}

ParameterId ParameterTable::find(const std::string& name) const {
  const auto found = ids_.find(name);
  return found == ids_.end() ? kNoParameter : found->second;
}

std::int64_t ParameterTable::total_elements() const {
  return std::accumulate(
      specs_.begin(), specs_.end(), std::int64_t{0},
      [](std::int64_t sum, const ParameterSpec& spec) { return sum + spec.elements(); });
}

GroupIndex ParameterTable::first_trained_group() const {
  for (const ParameterSpec& spec : specs_) {
    if (!spec.frozen) return spec.group;
  }
  return groups_;
}

void initialize(const ParameterSpec& spec, std::uint64_t seed, float* out) {
  const auto n = static_cast<std::uint64_t>(spec.elements());
  const core::Philox4x32Key key = core::stream_key(seed, "init/" + spec.name);
  const auto scale = static_cast<float>(spec.init.scale);
  switch (spec.init.kind) {
    case InitRule::Kind::kZeros:
      std::fill_n(out, n, 0.0F);
      break;
    case InitRule::Kind::kOnes:
      std::fill_n(out, n, 1.0F);
      break;
    case InitRule::Kind::kNormal:
      core::fill_normal(key, 0.0F, scale, out, n);
      break;
    case InitRule::Kind::kUniform:
      core::fill_uniform(key, -scale, scale, out, n);
      break;
  }
}

}  // namespace lockstep::models
