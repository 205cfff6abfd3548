#include "models/huggingface_names.h"

#include <array>
#include <span>
#include <utility>

#include "core/check.h"

namespace lockstep::models {

namespace {

// Canonical stem (below "block.I." in blocks; without ".weight" or ".bias") and Hugging Face's.
using Pair = std::pair<std::string_view, std::string_view>;

struct FamilyNames {
  std::string_view prefix;  // what files may leave out
  std::string_view layers;  // in front of the block's number
  std::span<const Pair> outside;
  std::span<const Pair> inside;
};

constexpr std::array kGptOutside = {
    Pair{"embeddings.token", "transformer.wte"},
    Pair{"embeddings.position", "transformer.wpe"},
    Pair{"head.norm", "transformer.ln_f"},
    Pair{"head", "lm_head"},
};
constexpr std::array kGptInside = {
    Pair{"attention_norm", "ln_1"},
    Pair{"attention.qkv", "attn.c_attn"},
    Pair{"attention.q_norm", "attn.q_norm"},
    Pair{"attention.k_norm", "attn.k_norm"},
    Pair{"attention.out", "attn.c_proj"},
    Pair{"attention.residual_gate", "attn.residual_gate"},
    Pair{"mlp_norm", "ln_2"},
    Pair{"mlp.gate", "mlp.c_gate"},
    Pair{"mlp.up", "mlp.c_fc"},
    Pair{"mlp.down", "mlp.c_proj"},
    Pair{"mlp.residual_gate", "mlp.residual_gate"},
};

constexpr std::array kLlamaOutside = {
    Pair{"embeddings.token", "model.embed_tokens"},
    Pair{"embeddings.position", "model.embed_positions"},
    Pair{"head.norm", "model.norm"},
    Pair{"head", "lm_head"},
};
constexpr std::array kLlamaInside = {
    Pair{"attention_norm", "input_layernorm"},
    Pair{"attention.q", "self_attn.q_proj"},
    Pair{"attention.k", "self_attn.k_proj"},
    Pair{"attention.v", "self_attn.v_proj"},
    Pair{"attention.q_norm", "self_attn.q_norm"},
    Pair{"attention.k_norm", "self_attn.k_norm"},
    Pair{"attention.out", "self_attn.o_proj"},
    Pair{"attention.residual_gate", "self_attn.residual_gate"},
    Pair{"mlp_norm", "post_attention_layernorm"},
    Pair{"mlp.gate", "mlp.gate_proj"},
    Pair{"mlp.up", "mlp.up_proj"},
    Pair{"mlp.down", "mlp.down_proj"},
    Pair{"mlp.residual_gate", "mlp.residual_gate"},
};

constexpr std::array kBertOutside = {
    Pair{"embeddings.token", "bert.embeddings.word_embeddings"},
    Pair{"embeddings.position", "bert.embeddings.position_embeddings"},
    Pair{"embeddings.token_type", "bert.embeddings.token_type_embeddings"},
    Pair{"embeddings.norm", "bert.embeddings.LayerNorm"},
    Pair{"head.norm", "bert.encoder.LayerNorm"},
    Pair{"head.transform", "cls.predictions.transform.dense"},
    Pair{"head.transform_norm", "cls.predictions.transform.LayerNorm"},
    Pair{"head.pooler", "bert.pooler.dense"},
    Pair{"head.classifier", "classifier"},
};
constexpr std::array kBertInside = {
    Pair{"attention_norm", "attention.output.LayerNorm"},
    Pair{"attention.q", "attention.self.query"},
    Pair{"attention.k", "attention.self.key"},
    Pair{"attention.v", "attention.self.value"},
    Pair{"attention.q_norm", "attention.self.q_norm"},
    Pair{"attention.k_norm", "attention.self.k_norm"},
    Pair{"attention.out", "attention.output.dense"},
    Pair{"attention.residual_gate", "attention.output.residual_gate"},
    Pair{"mlp_norm", "output.LayerNorm"},
    Pair{"mlp.gate", "intermediate.gate"},
    Pair{"mlp.up", "intermediate.dense"},
    Pair{"mlp.down", "output.dense"},
    Pair{"mlp.residual_gate", "output.residual_gate"},
};

constexpr std::string_view kBertDecoder = "cls.predictions.decoder.weight";
constexpr std::string_view kBertDecoderBias = "cls.predictions.decoder.bias";
constexpr std::string_view kBertOutputBias = "cls.predictions.bias";

FamilyNames names_of(Family family) {
  switch (family) {
    case Family::kGpt:
      return {"transformer.", "transformer.h.", kGptOutside, kGptInside};
    case Family::kLlama:
      return {"model.", "model.layers.", kLlamaOutside, kLlamaInside};
    case Family::kBert:
      return {"bert.", "bert.encoder.layer.", kBertOutside, kBertInside};
  }
  core::fail_check(__FILE__, __LINE__, "family", "unknown model family");
}

std::string_view look_up(std::span<const Pair> pairs, std::string_view stem) {
  for (const auto& [ours, theirs] : pairs)
    if (ours == stem) return theirs;
  core::fail_check(__FILE__, __LINE__, "stem",
                   "no Hugging Face name for " + std::string(stem) + " in this family");
}

// Splits "attention.out.weight" into stem and ".weight"; a residual gate has no such ending.
std::pair<std::string_view, std::string_view> split_ending(std::string_view name) {
  for (const std::string_view ending : {".weight", ".bias"})
    if (name.ends_with(ending)) return {name.substr(0, name.size() - ending.size()), ending};
  return {name, ""};
}

std::string name_in_block(const FamilyNames& names, std::string_view name) {
  constexpr std::string_view kBlock = "block.";
  name.remove_prefix(kBlock.size());
  const std::size_t dot = name.find('.');
  const auto [stem, ending] = split_ending(name.substr(dot + 1));
  std::string full(names.layers);
  full.append(name.substr(0, dot + 1)).append(look_up(names.inside, stem)).append(ending);
  return full;
}

bool is_buffer(Family family, std::string_view name) {
  switch (family) {
    case Family::kGpt:
      return name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias");
    case Family::kLlama:
      return name.ends_with("rotary_emb.inv_freq");
    case Family::kBert:
      return name == "embeddings.position_ids" || name == "embeddings.token_type_ids";
  }
  return false;
}

}  // namespace

HuggingFaceName huggingface_name(const ModelConfig& config, const ParameterSpec& spec) {
  const FamilyNames names = names_of(config.family);
  const bool conv1d = config.family == Family::kGpt && spec.role == ParameterRole::kLinearWeight;
  if (spec.name.starts_with("block.")) return {name_in_block(names, spec.name), conv1d};
  if (config.family == Family::kBert && spec.name == "head.weight")
    return {std::string(kBertDecoder), false};
  if (config.family == Family::kBert && spec.name == "head.bias")
    return {std::string(kBertOutputBias), false};
  const auto [stem, ending] = split_ending(spec.name);
  return {std::string(look_up(names.outside, stem)).append(ending), false};
}

std::string bare_huggingface_name(Family family, std::string_view name) {
  const FamilyNames names = names_of(family);
  // What DistributedDataParallel and torch.compile put in front.
  for (const std::string_view wrapper : {"module.", "_orig_mod.", "module."})
    if (name.starts_with(wrapper)) name.remove_prefix(wrapper.size());
  if (name.starts_with(names.prefix)) name.remove_prefix(names.prefix.size());
  const auto renamed = [name](std::string_view old_ending, std::string_view ending) {
    return std::string(name.substr(0, name.size() - old_ending.size())).append(ending);
  };
  if (family == Family::kBert && name.ends_with("LayerNorm.gamma"))
    return renamed(".gamma", ".weight");
  if (family == Family::kBert && name.ends_with("LayerNorm.beta")) return renamed(".beta", ".bias");
  return std::string(name);
}

ForeignTensor classify_foreign(const ModelConfig& config, std::string_view bare_name) {
  if (is_buffer(config.family, bare_name)) return ForeignTensor::kBuffer;
  if (config.family != Family::kBert) {
    const bool tied = config.tie_embeddings && bare_name == "lm_head.weight";
    return tied ? ForeignTensor::kTiedOutput : ForeignTensor::kUnknown;
  }
  if (config.task == Task::kMaskedLm) {
    if (config.tie_embeddings && bare_name == kBertDecoder) return ForeignTensor::kTiedOutput;
    if (config.linear_bias() && bare_name == kBertDecoderBias)
      return ForeignTensor::kTiedOutputBias;
    const bool unused =
        bare_name.starts_with("pooler.") || bare_name.starts_with("cls.seq_relationship.");
    return unused ? ForeignTensor::kUnusedHead : ForeignTensor::kUnknown;
  }
  return bare_name.starts_with("cls.") ? ForeignTensor::kUnusedHead : ForeignTensor::kUnknown;
}

}  // namespace lockstep::models
