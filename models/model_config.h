#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "ops/rope_scaling.h"

namespace lockstep::models {

enum class Family { kGpt, kLlama, kBert };
enum class NormKind { kLayerNorm, kRmsNorm };
enum class NormPosition { kPre, kPost };
enum class Activation { kGelu, kGeluTanh, kRelu, kLeakyRelu, kElu, kSilu, kSwiGlu, kGeGlu };
enum class Positions { kLearned, kRope, kSinusoidal };
enum class ResidualGate { kNone, kScalar };
enum class InitKind { kGpt2, kXavierUniform, kXavierNormal, kKaimingUniform, kKaimingNormal };
enum class Bias { kNone, kAll, kQkv };  // of linear layers: none, all, query, key and value only
using ops::RopeScaling;
using ops::RopeScalingKind;
// muP (Yang et al. 2022, arXiv 2203.03466): see models/parametrization.h.
enum class Parametrization { kStandard, kMup };
enum class Task { kCausalLm, kMaskedLm, kClassification };

// The resolved `model:` section: every field has its value (the family's defaults are filled in by
// family_defaults and derive_sizes, or by the caller). Sizes in elements. Shape letters of models/:
// B sequences of a micro-batch, T tokens of a sequence, N = B*T, V vocabulary, C width, L
// layers, H query heads, K key/value heads, D head width (C/H unless given), F feed-forward width.
struct ModelConfig {
  Family family = Family::kGpt;
  std::int64_t layers = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;          // divides heads; == heads without grouping
  std::int64_t width = 0;             // divisible by heads unless a head width is given
  std::int64_t given_head_width = 0;  // model.head_width; 0: width / heads. Even with RoPE
  std::int64_t ffn_width = 0;
  std::int64_t context = 0;  // tokens of a sequence
  std::int64_t vocab = 0;
  NormKind norm = NormKind::kLayerNorm;
  NormPosition norm_position = NormPosition::kPre;  // post: x = norm(x + f(x)), no final norm
  double norm_eps = 1e-5;
  Activation activation = Activation::kGeluTanh;
  Positions positions = Positions::kLearned;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  // Entry i modulo their number is block i's: position t sees the last so many positions up to
  // itself; 0: all of them. Empty: no block has a window.
  std::vector<std::int64_t> attention_window;
  Bias bias = Bias::kAll;  // a layernorm always has its bias in gpt and bert, and in llama where
                           // all linear layers have one
  bool tie_embeddings = true;
  // After the embeddings, on attention probabilities, and on both residual branches.
  double dropout = 0.0;
  // scalar: x + g * f(x), one learned g (starting at 1) per branch
  ResidualGate residual_gate = ResidualGate::kNone;
  InitKind init = InitKind::kGpt2;
  double init_std = 0.02;
  Parametrization parametrization = Parametrization::kStandard;
  std::int64_t mup_base_width = 0;  // mup: width of the base model, which equals `standard`
  // RMSNorm over D of every query and key head, one gain vector [D] each, before RoPE.
  bool qk_norm = false;
  double logit_softcap = 0.0;  // 0: off; else logits = cap * tanh(logits / cap)
  Task task = Task::kCausalLm;
  std::int64_t classes = 0;      // classification only
  std::int64_t token_types = 0;  // bert: 2 (all tokens are of type 0), else 0

  std::int64_t head_width() const {
    return given_head_width > 0 ? given_head_width : width / heads;
  }
  std::int64_t q_width() const { return heads * head_width(); }
  std::int64_t kv_width() const { return kv_heads * head_width(); }
  std::int64_t qkv_width() const { return q_width() + 2 * kv_width(); }
  std::int64_t window_of(std::int64_t block) const {
    if (attention_window.empty()) return 0;
    return attention_window[static_cast<std::size_t>(block) % attention_window.size()];
  }
  bool linear_bias() const { return bias == Bias::kAll; }
  bool qkv_bias() const { return bias != Bias::kNone; }
  // mup: how many times wider than the base model; else 1.
  double width_multiplier() const {
    return parametrization == Parametrization::kStandard
               ? 1.0
               : static_cast<double>(width) / static_cast<double>(mup_base_width);
  }
  bool gated() const {
    return activation == Activation::kSwiGlu || activation == Activation::kGeGlu;
  }
  bool causal() const { return family != Family::kBert; }
  bool norm_bias() const {
    return norm == NormKind::kLayerNorm && (linear_bias() || family != Family::kLlama);
  }
  bool final_norm() const { return norm_position == NormPosition::kPre; }
  bool embedding_norm() const { return family == Family::kBert; }  // norm after the embeddings
};

// One thing wrong with a configuration: the key below `model.` ("kv_heads") and what is wrong and
// legal.
struct ModelConfigProblem {
  std::string key;
  std::string message;
};

// The defaults of a family, sizes still 0 (kv_heads, ffn_width too: 0 there means "derive").
ModelConfig family_defaults(Family family);

// Fills derived sizes that are 0: kv_heads = heads; ffn_width = 4*width, for gated activations
// 8/3*width rounded up to 64. A classification head has no output embedding, so there
// tie_embeddings becomes false; a caller that knows that true was asked for sets it again and lets
// find_problems refuse it.
void derive_sizes(ModelConfig& config);

// Everything that makes no sense, with the reason; empty when the model can be built.
std::vector<ModelConfigProblem> find_problems(const ModelConfig& config);

}  // namespace lockstep::models
