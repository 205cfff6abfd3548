#include "models/huggingface_names.h"

#include <gtest/gtest.h>

#include <set>

namespace lockstep::models {
namespace {

ModelConfig tiny(Family family) {
  ModelConfig config = family_defaults(family);
  config.layers = 2;
  config.heads = 2;
  config.width = 8;
  config.context = 6;
  config.vocab = 10;
  if (family == Family::kBert) config.token_types = 2;
  derive_sizes(config);
  return config;
}

std::vector<std::string> names_of(const ModelConfig& config) {
  std::vector<std::string> names;
  const ParameterTable table(config);
  for (const ParameterSpec& spec : table.specs()) {
    const HuggingFaceName name = huggingface_name(config, spec);
    names.push_back(name.name + (name.transposed ? " T" : ""));
  }
  return names;
}

// The block's entries of `names` for both layers, then what stands around them.
std::vector<std::string> with_blocks(const std::string& layers, std::vector<std::string> before,
                                     const std::vector<std::string>& block,
                                     const std::vector<std::string>& after) {
  for (const char* layer : {"0.", "1."})
    for (const std::string& name : block)
      before.push_back(layers + layer + name);
  before.insert(before.end(), after.begin(), after.end());
  return before;
}

TEST(HuggingFaceNames, OfGpt2) {
  EXPECT_EQ(
      names_of(tiny(Family::kGpt)),
      with_blocks("transformer.h.", {"transformer.wte.weight", "transformer.wpe.weight"},
                  {"ln_1.weight", "ln_1.bias", "attn.c_attn.weight T", "attn.c_attn.bias",
                   "attn.c_proj.weight T", "attn.c_proj.bias", "ln_2.weight", "ln_2.bias",
                   "mlp.c_fc.weight T", "mlp.c_fc.bias", "mlp.c_proj.weight T", "mlp.c_proj.bias"},
                  {"transformer.ln_f.weight", "transformer.ln_f.bias"}));
}

TEST(HuggingFaceNames, OfLlama) {
  EXPECT_EQ(names_of(tiny(Family::kLlama)),
            with_blocks("model.layers.", {"model.embed_tokens.weight"},
                        {"input_layernorm.weight", "self_attn.q_proj.weight",
                         "self_attn.k_proj.weight", "self_attn.v_proj.weight",
                         "self_attn.o_proj.weight", "post_attention_layernorm.weight",
                         "mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"},
                        {"model.norm.weight", "lm_head.weight"}));
}

TEST(HuggingFaceNames, OfBert) {
  EXPECT_EQ(
      names_of(tiny(Family::kBert)),
      with_blocks(
          "bert.encoder.layer.",
          {"bert.embeddings.word_embeddings.weight", "bert.embeddings.position_embeddings.weight",
           "bert.embeddings.token_type_embeddings.weight", "bert.embeddings.LayerNorm.weight",
           "bert.embeddings.LayerNorm.bias"},
          {"attention.output.LayerNorm.weight", "attention.output.LayerNorm.bias",
           "attention.self.query.weight", "attention.self.query.bias", "attention.self.key.weight",
           "attention.self.key.bias", "attention.self.value.weight", "attention.self.value.bias",
           "attention.output.dense.weight", "attention.output.dense.bias",
           "output.LayerNorm.weight", "output.LayerNorm.bias", "intermediate.dense.weight",
           "intermediate.dense.bias", "output.dense.weight", "output.dense.bias"},
          {"cls.predictions.transform.dense.weight", "cls.predictions.transform.dense.bias",
           "cls.predictions.transform.LayerNorm.weight", "cls.predictions.transform.LayerNorm.bias",
           "cls.predictions.bias"}));
}

TEST(HuggingFaceNames, OfBertClassification) {
  ModelConfig config = tiny(Family::kBert);
  config.task = Task::kClassification;
  config.classes = 3;
  config.tie_embeddings = false;
  const std::vector<std::string> names = names_of(config);
  const std::vector<std::string> last(names.end() - 4, names.end());
  EXPECT_EQ(last, (std::vector<std::string>{"bert.pooler.dense.weight", "bert.pooler.dense.bias",
                                            "classifier.weight", "classifier.bias"}));
}

// Every switch that adds parameters, in every family: all have names, and no two the same, also
// without the prefix.
TEST(HuggingFaceNames, ExistAndDifferForEveryExtra) {
  for (const Family family : {Family::kGpt, Family::kLlama, Family::kBert}) {
    ModelConfig config = tiny(family);
    config.norm = NormKind::kLayerNorm;
    config.norm_position = NormPosition::kPre;
    config.activation = Activation::kSwiGlu;
    config.positions = Positions::kLearned;
    config.bias = Bias::kAll;
    config.tie_embeddings = false;
    config.qk_norm = true;
    config.residual_gate = ResidualGate::kScalar;
    const ParameterTable table(config);
    std::set<std::string> full;
    std::set<std::string> bare;
    for (const ParameterSpec& spec : table.specs()) {
      const HuggingFaceName name = huggingface_name(config, spec);
      EXPECT_TRUE(full.insert(name.name).second) << name.name;
      EXPECT_TRUE(bare.insert(bare_huggingface_name(family, name.name)).second) << name.name;
      EXPECT_EQ(classify_foreign(config, bare_huggingface_name(family, name.name)),
                ForeignTensor::kUnknown)
          << name.name;
      EXPECT_TRUE(!name.transposed || spec.shape.rank() == 2) << spec.name;
    }
  }
}

TEST(HuggingFaceNames, HaveOneBareForm) {
  EXPECT_EQ(bare_huggingface_name(Family::kGpt, "transformer.h.0.ln_1.bias"), "h.0.ln_1.bias");
  EXPECT_EQ(bare_huggingface_name(Family::kGpt, "h.0.ln_1.bias"), "h.0.ln_1.bias");
  EXPECT_EQ(bare_huggingface_name(Family::kGpt, "lm_head.weight"), "lm_head.weight");
  EXPECT_EQ(bare_huggingface_name(Family::kLlama, "model.norm.weight"), "norm.weight");
  EXPECT_EQ(bare_huggingface_name(Family::kLlama, "transformer.wte.weight"),
            "transformer.wte.weight");
  EXPECT_EQ(bare_huggingface_name(Family::kBert, "bert.embeddings.LayerNorm.gamma"),
            "embeddings.LayerNorm.weight");
  EXPECT_EQ(bare_huggingface_name(Family::kBert, "embeddings.LayerNorm.beta"),
            "embeddings.LayerNorm.bias");
}

TEST(HuggingFaceNames, ClassifiesWhatNoParameterClaims) {
  const ModelConfig gpt = tiny(Family::kGpt);
  EXPECT_EQ(classify_foreign(gpt, "h.0.attn.bias"), ForeignTensor::kBuffer);
  EXPECT_EQ(classify_foreign(gpt, "h.11.attn.masked_bias"), ForeignTensor::kBuffer);
  EXPECT_EQ(classify_foreign(gpt, "h.0.attn.c_attn.bias"), ForeignTensor::kUnknown);
  EXPECT_EQ(classify_foreign(gpt, "lm_head.weight"), ForeignTensor::kTiedOutput);
  const ModelConfig llama = tiny(Family::kLlama);
  EXPECT_EQ(classify_foreign(llama, "layers.0.self_attn.rotary_emb.inv_freq"),
            ForeignTensor::kBuffer);
  EXPECT_EQ(classify_foreign(llama, "h.0.attn.bias"), ForeignTensor::kUnknown);
  ModelConfig bert = tiny(Family::kBert);
  EXPECT_EQ(classify_foreign(bert, "embeddings.position_ids"), ForeignTensor::kBuffer);
  EXPECT_EQ(classify_foreign(bert, "cls.predictions.decoder.weight"), ForeignTensor::kTiedOutput);
  EXPECT_EQ(classify_foreign(bert, "cls.predictions.decoder.bias"), ForeignTensor::kTiedOutputBias);
  EXPECT_EQ(classify_foreign(bert, "pooler.dense.weight"), ForeignTensor::kUnusedHead);
  EXPECT_EQ(classify_foreign(bert, "cls.seq_relationship.bias"), ForeignTensor::kUnusedHead);
  bert.task = Task::kClassification;
  EXPECT_EQ(classify_foreign(bert, "cls.predictions.bias"), ForeignTensor::kUnusedHead);
  EXPECT_EQ(classify_foreign(bert, "encoder.layer.9.output.dense.bias"), ForeignTensor::kUnknown);
}

}  // namespace
}  // namespace lockstep::models
