#include "models/parameter_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "tests/support/model_fixture.h"

namespace lockstep::models {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> names_of(const ParameterTable& table, GroupIndex group) {
  std::vector<std::string> names;
  for (const ParameterId id : table.in_group(group))
    names.push_back(table[id].name);
  return names;
}

const ParameterSpec& spec_of(const ParameterTable& table, const std::string& name) {
  const ParameterId id = table.find(name);
  EXPECT_NE(id, kNoParameter) << name;
  return table[id];
}

TEST(ParameterTable, GptNames) {
  const ParameterTable table(test::tiny_config(Family::kGpt));
  EXPECT_EQ(table.groups(), 4);
  EXPECT_THAT(names_of(table, 0),
              ElementsAre("embeddings.token.weight", "embeddings.position.weight"));
  EXPECT_THAT(
      names_of(table, 2),
      ElementsAre("block.1.attention_norm.weight", "block.1.attention_norm.bias",
                  "block.1.attention.qkv.weight", "block.1.attention.qkv.bias",
                  "block.1.attention.out.weight", "block.1.attention.out.bias",
                  "block.1.mlp_norm.weight", "block.1.mlp_norm.bias", "block.1.mlp.up.weight",
                  "block.1.mlp.up.bias", "block.1.mlp.down.weight", "block.1.mlp.down.bias"));
  EXPECT_THAT(names_of(table, 3), ElementsAre("head.norm.weight", "head.norm.bias"));
  EXPECT_EQ(table.group_name(0), "embeddings");
  EXPECT_EQ(table.group_name(2), "block.1");
  EXPECT_EQ(table.group_name(3), "head");
  EXPECT_EQ(spec_of(table, "block.1.attention.qkv.weight").shape, (core::Shape{24, 8}));
  EXPECT_EQ(table.find("head.weight"), kNoParameter);
}

TEST(ParameterTable, LlamaNamesWithEveryOption) {
  ModelConfig config = test::tiny_config(Family::kLlama);
  config.kv_heads = 1;
  config.qk_norm = true;
  config.residual_gate = ResidualGate::kScalar;
  const ParameterTable table(config);
  EXPECT_THAT(names_of(table, 0), ElementsAre("embeddings.token.weight"));
  EXPECT_THAT(
      names_of(table, 1),
      ElementsAre("block.0.attention_norm.weight", "block.0.attention.q.weight",
                  "block.0.attention.k.weight", "block.0.attention.v.weight",
                  "block.0.attention.q_norm.weight", "block.0.attention.k_norm.weight",
                  "block.0.attention.out.weight", "block.0.attention.residual_gate",
                  "block.0.mlp_norm.weight", "block.0.mlp.gate.weight", "block.0.mlp.up.weight",
                  "block.0.mlp.down.weight", "block.0.mlp.residual_gate"));
  EXPECT_THAT(names_of(table, 3), ElementsAre("head.norm.weight", "head.weight"));
  EXPECT_EQ(spec_of(table, "block.0.attention.k.weight").shape, (core::Shape{4, 8}));
  EXPECT_EQ(spec_of(table, "block.0.attention.q_norm.weight").shape, (core::Shape{4}));
}

TEST(ParameterTable, BertHeads) {
  ModelConfig config = test::tiny_config(Family::kBert);
  const ParameterTable masked(config);
  EXPECT_THAT(names_of(masked, 0),
              ElementsAre("embeddings.token.weight", "embeddings.position.weight",
                          "embeddings.token_type.weight", "embeddings.norm.weight",
                          "embeddings.norm.bias"));
  EXPECT_THAT(names_of(masked, 3),
              ElementsAre("head.transform.weight", "head.transform.bias",
                          "head.transform_norm.weight", "head.transform_norm.bias", "head.bias"));
  config.task = Task::kClassification;
  config.classes = 3;
  derive_sizes(config);
  const ParameterTable classifier(config);
  EXPECT_THAT(names_of(classifier, 3),
              ElementsAre("head.pooler.weight", "head.pooler.bias", "head.classifier.weight",
                          "head.classifier.bias"));
  EXPECT_EQ(spec_of(classifier, "head.classifier.weight").shape, (core::Shape{3, 8}));
}

// The published sizes of three models.
TEST(ParameterTable, CountsOfKnownModels) {
  ModelConfig gpt2 = family_defaults(Family::kGpt);
  gpt2.layers = gpt2.heads = 12;
  gpt2.width = 768;
  gpt2.context = 1024;
  gpt2.vocab = 50257;
  derive_sizes(gpt2);
  EXPECT_EQ(ParameterTable(gpt2).total_elements(), 124439808);

  ModelConfig bert = family_defaults(Family::kBert);
  bert.layers = bert.heads = 12;
  bert.width = 768;
  bert.context = 512;
  bert.vocab = 30522;
  derive_sizes(bert);
  EXPECT_EQ(ParameterTable(bert).total_elements(), 109514298);

  ModelConfig tiny_llama = family_defaults(Family::kLlama);
  tiny_llama.layers = 22;
  tiny_llama.heads = 32;
  tiny_llama.kv_heads = 4;
  tiny_llama.width = 2048;
  tiny_llama.ffn_width = 5632;
  tiny_llama.context = 2048;
  tiny_llama.vocab = 32000;
  derive_sizes(tiny_llama);
  EXPECT_EQ(ParameterTable(tiny_llama).total_elements(), 1100048384);
}

TEST(ParameterTable, OnlyMatricesDecay) {
  for (const Family family : {Family::kGpt, Family::kLlama, Family::kBert}) {
    ModelConfig config = test::tiny_config(family);
    config.residual_gate = ResidualGate::kScalar;
    config.qk_norm = true;
    const ParameterTable table(config);
    for (const ParameterSpec& spec : table.specs()) {
      const bool matrix =
          spec.role == ParameterRole::kLinearWeight || spec.role == ParameterRole::kEmbedding;
      EXPECT_EQ(spec.decays, matrix) << spec.name;
      EXPECT_EQ(spec.shape.rank() == 2, matrix) << spec.name;
    }
  }
}

struct InitCase {
  InitKind kind;
  InitRule::Kind rule;
  double up;    // expected scale of mlp.up [12, 8]
  double down;  // of mlp.down [8, 12]
};

TEST(ParameterTable, InitialisationRules) {
  const double depth = std::sqrt(2.0 * 2.0);
  const InitCase cases[] = {
      {InitKind::kGpt2, InitRule::Kind::kNormal, 0.3, 0.3 / depth},
      {InitKind::kXavierUniform, InitRule::Kind::kUniform, std::sqrt(6.0 / 20),
       std::sqrt(6.0 / 20)},
      {InitKind::kXavierNormal, InitRule::Kind::kNormal, std::sqrt(2.0 / 20), std::sqrt(2.0 / 20)},
      {InitKind::kKaimingUniform, InitRule::Kind::kUniform, std::sqrt(6.0 / 8),
       std::sqrt(6.0 / 12)},
      {InitKind::kKaimingNormal, InitRule::Kind::kNormal, std::sqrt(2.0 / 8), std::sqrt(2.0 / 12)},
  };
  for (const InitCase& expected : cases) {
    ModelConfig config = test::tiny_config(Family::kGpt);
    config.init = expected.kind;
    const ParameterTable table(config);
    const InitRule up = spec_of(table, "block.0.mlp.up.weight").init;
    const InitRule down = spec_of(table, "block.0.mlp.down.weight").init;
    EXPECT_EQ(up.kind, expected.rule);
    EXPECT_DOUBLE_EQ(up.scale, expected.up);
    EXPECT_DOUBLE_EQ(down.scale, expected.down);
    const InitRule tokens = spec_of(table, "embeddings.token.weight").init;
    EXPECT_EQ(tokens.kind, InitRule::Kind::kNormal);
    EXPECT_DOUBLE_EQ(tokens.scale, 0.3);
  }
}

TEST(ParameterTable, InitialValues) {
  ModelConfig config = test::tiny_config(Family::kGpt);
  config.width = 64;
  config.residual_gate = ResidualGate::kScalar;
  config.init = InitKind::kKaimingUniform;
  config.ffn_width = 256;
  const ParameterTable table(config);
  const auto values = [&](const std::string& name, std::uint64_t seed) {
    const ParameterSpec& spec = spec_of(table, name);
    std::vector<float> v(static_cast<std::size_t>(spec.elements()), -7.0F);
    initialize(spec, seed, v.data());
    return v;
  };
  EXPECT_THAT(values("head.norm.bias", 1), ::testing::Each(0.0F));
  EXPECT_THAT(values("head.norm.weight", 1), ::testing::Each(1.0F));
  EXPECT_THAT(values("block.1.mlp.residual_gate", 1), ::testing::Each(1.0F));

  const std::vector<float> w = values("block.0.mlp.up.weight", 1);
  const double bound = std::sqrt(6.0 / 64.0);
  double squares = 0.0;
  for (const float x : w) {
    EXPECT_LE(std::abs(x), bound);
    squares += static_cast<double>(x) * x;
  }
  EXPECT_NEAR(std::sqrt(squares / static_cast<double>(w.size())), bound / std::sqrt(3.0), 0.01);
  EXPECT_EQ(w, values("block.0.mlp.up.weight", 1));
  EXPECT_NE(w, values("block.0.mlp.up.weight", 2));
  EXPECT_NE(w, values("block.1.mlp.up.weight", 1));
}

}  // namespace
}  // namespace lockstep::models
