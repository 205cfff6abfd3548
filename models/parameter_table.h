#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/tensor.h"
#include "models/model_config.h"

namespace lockstep::models {

// Where a parameter sits, which decides when its gradient is complete. Canonical order: embeddings,
// block 0..L-1, head.
using GroupIndex = int;  // 0 = embeddings, 1..L = block, L+1 = head

enum class ParameterRole { kLinearWeight, kEmbedding, kBias, kNormGain, kNormBias, kGate };

// How a parameter starts (its random stream is keyed by seed and name, so it is the same at any
// number of ranks).
struct InitRule {
  enum class Kind { kZeros, kOnes, kNormal, kUniform } kind = Kind::kZeros;
  double scale = 0.0;  // standard deviation, or half-width of the uniform interval
};

struct ParameterSpec {
  std::string name;  // canonical: "block.3.attention.qkv.weight"; see models/README.md for the list
  core::Shape shape;  // linear weights are [out, in]; embeddings [rows, C]
  ParameterRole role = ParameterRole::kLinearWeight;
  InitRule init;
  GroupIndex group = 0;
  bool decays = false;            // weight decay applies (linear weights and embeddings)
  bool frozen = false;            // has no gradient
  double width_multiplier = 1.0;  // mup: fan_in_multiplier() (models/parametrization.h)

  std::int64_t elements() const { return shape.elements(); }
};

// The parameters of a model in canonical order; index = ParameterId. Pure data, the same on every
// rank.
using ParameterId = int;
inline constexpr ParameterId kNoParameter = -1;

class ParameterTable {
 public:
  explicit ParameterTable(const ModelConfig& config);

  const std::vector<ParameterSpec>& specs() const { return specs_; }
  const ParameterSpec& operator[](ParameterId id) const {
    return specs_[static_cast<std::size_t>(id)];
  }
  int size() const { return static_cast<int>(specs_.size()); }
  int groups() const { return groups_; }                      // layers + 2
  std::string group_name(GroupIndex group) const;             // "embeddings", "block.3", "head"
  std::vector<ParameterId> in_group(GroupIndex group) const;  // canonical order
  ParameterId find(const std::string& name) const;            // kNoParameter if absent
  std::int64_t total_elements() const;  // without any padding; tied tensors once

  void freeze(ParameterId id) { specs_[static_cast<std::size_t>(id)].frozen = true; }
  // The lowest group with a tensor that is not frozen: backward ends there.
  GroupIndex first_trained_group() const;

 private:
  ParameterId add(ParameterSpec spec);
  void add_all(std::vector<ParameterSpec> specs);
  void add_embeddings(const ModelConfig& config);
  void add_block(const ModelConfig& config, int layer);
  void add_head(const ModelConfig& config);
  void scale_for_width(const ModelConfig& config);

  std::vector<ParameterSpec> specs_;
  std::unordered_map<std::string, ParameterId> ids_;  // by name
  int groups_ = 0;
};

// Writes the initial value of a parameter (fp32, canonical order of elements).
void initialize(const ParameterSpec& spec, std::uint64_t seed, float* out);

}  // namespace lockstep::models
