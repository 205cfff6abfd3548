#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "models/model_config.h"
#include "models/parameter_table.h"

// How Hugging Face's Transformers names and stores the parameters of GPT-2, Llama and BERT.
//
//   outside the blocks; `t.` = "transformer.", `m.` = "model.", `b.` = "bert."
//   canonical              gpt         llama              bert
//   embeddings.token       t.wte       m.embed_tokens     b.embeddings.word_embeddings
//   embeddings.position    t.wpe       m.embed_positions* b.embeddings.position_embeddings
//   embeddings.token_type                                 b.embeddings.token_type_embeddings
//   embeddings.norm                                       b.embeddings.LayerNorm
//   head.norm              t.ln_f      m.norm             b.encoder.LayerNorm*
//   head.weight            lm_head     lm_head            cls.predictions.decoder
//   head.transform                                        cls.predictions.transform.dense
//   head.transform_norm                                   cls.predictions.transform.LayerNorm
//   head.bias                                             cls.predictions.bias
//   head.pooler                                           b.pooler.dense
//   head.classifier                                       classifier
//
//   in block I             t.h.I       m.layers.I                b.encoder.layer.I
//   attention_norm         ln_1        input_layernorm           attention.output.LayerNorm
//   attention.qkv          attn.c_attn
//   attention.q, k, v                  self_attn.q_proj, ...     attention.self.query, key, value
//   attention.q_norm, ...  attn.*      self_attn.q_norm, ...     attention.self.q_norm*, ...
//   attention.out          attn.c_proj self_attn.o_proj          attention.output.dense
//   attention.residual_gate attn.*     self_attn.residual_gate*  attention.output.residual_gate*
//   mlp_norm               ln_2        post_attention_layernorm  output.LayerNorm
//   mlp.gate               mlp.c_gate* mlp.gate_proj             intermediate.gate*
//   mlp.up                 mlp.c_fc    mlp.up_proj               intermediate.dense
//   mlp.down               mlp.c_proj  mlp.down_proj             output.dense
//   mlp.residual_gate      mlp.*       mlp.residual_gate*        output.residual_gate*
//
// * no such parameter in Hugging Face's model: a name in its style. llama's q_norm and k_norm are
// those of Qwen3. GPT-2 stores the weights of its linear layers as [in, out] (Conv1D): transposed
// against ours; everything else is stored as here. A model with norm_position: post (pre for bert)
// keeps these names, although Hugging Face's model of that family would put the norms elsewhere.
namespace lockstep::models {

struct HuggingFaceName {
  std::string name;         // complete, with the prefix: "transformer.h.0.attn.c_attn.weight"
  bool transposed = false;  // a 2-D tensor stored as [columns, rows] of the canonical shape
};

// The name of a parameter of ParameterTable(config).
HuggingFaceName huggingface_name(const ModelConfig& config, const ParameterSpec& spec);

// The one form to which the spellings found in files are brought before names are compared: without
// the prefixes of PyTorch's wrappers ("module.", "_orig_mod.") and of the family ("transformer.",
// "model.", "bert."), and with LayerNorm.weight and .bias for
// the .gamma and .beta of old BERT files.
std::string bare_huggingface_name(Family family, std::string_view name);

// What a tensor is that no parameter of the model claims.
enum class ForeignTensor {
  kUnknown,
  kBuffer,          // no parameter: a causal mask, RoPE frequencies, position ids
  kUnusedHead,      // a head that this task has no use for (BERT's pooler under masked_lm, ...)
  kTiedOutput,      // the output embedding, which must equal the token embedding
  kTiedOutputBias,  // BERT's copy of cls.predictions.bias
};
ForeignTensor classify_foreign(const ModelConfig& config, std::string_view bare_name);

}  // namespace lockstep::models
