#include "models/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "tests/support/model_fixture.h"

namespace lockstep::models {
namespace {

using ::testing::HasSubstr;

TEST(ModelConfig, GptDefaults) {
  const ModelConfig c = family_defaults(Family::kGpt);
  EXPECT_EQ(c.norm, NormKind::kLayerNorm);
  EXPECT_EQ(c.norm_position, NormPosition::kPre);
  EXPECT_EQ(c.activation, Activation::kGeluTanh);
  EXPECT_EQ(c.positions, Positions::kLearned);
  EXPECT_EQ(c.norm_eps, 1e-5);
  EXPECT_EQ(c.bias, Bias::kAll);
  EXPECT_TRUE(c.tie_embeddings);
  EXPECT_EQ(c.task, Task::kCausalLm);
  EXPECT_EQ(c.token_types, 0);
}

TEST(ModelConfig, LlamaDefaults) {
  const ModelConfig c = family_defaults(Family::kLlama);
  EXPECT_EQ(c.norm, NormKind::kRmsNorm);
  EXPECT_EQ(c.norm_position, NormPosition::kPre);
  EXPECT_EQ(c.activation, Activation::kSwiGlu);
  EXPECT_EQ(c.positions, Positions::kRope);
  EXPECT_EQ(c.rope_theta, 10000.0);
  EXPECT_EQ(c.bias, Bias::kNone);
  EXPECT_FALSE(c.tie_embeddings);
}

TEST(ModelConfig, BertDefaults) {
  const ModelConfig c = family_defaults(Family::kBert);
  EXPECT_EQ(c.norm, NormKind::kLayerNorm);
  EXPECT_EQ(c.norm_position, NormPosition::kPost);
  EXPECT_EQ(c.activation, Activation::kGelu);
  EXPECT_EQ(c.positions, Positions::kLearned);
  EXPECT_EQ(c.norm_eps, 1e-12);
  EXPECT_EQ(c.token_types, 2);
  EXPECT_TRUE(c.embedding_norm());
  EXPECT_FALSE(c.causal());
  EXPECT_FALSE(c.final_norm());
}

TEST(ModelConfig, LayerNormBiasFollowsBiasOnlyInLlama) {
  for (const Family family : {Family::kGpt, Family::kLlama, Family::kBert}) {
    ModelConfig c = family_defaults(family);
    c.norm = NormKind::kLayerNorm;
    c.bias = Bias::kNone;
    EXPECT_EQ(c.norm_bias(), family != Family::kLlama);
    c.norm = NormKind::kRmsNorm;
    c.bias = Bias::kAll;
    EXPECT_FALSE(c.norm_bias());
  }
}

TEST(ModelConfig, DerivesSizesThatAreZero) {
  ModelConfig c = family_defaults(Family::kGpt);
  c.heads = 12;
  c.width = 768;
  derive_sizes(c);
  EXPECT_EQ(c.kv_heads, 12);
  EXPECT_EQ(c.ffn_width, 3072);

  c = family_defaults(Family::kLlama);
  c.heads = 32;
  c.kv_heads = 4;
  c.width = 4096;
  derive_sizes(c);
  EXPECT_EQ(c.kv_heads, 4);
  EXPECT_EQ(c.ffn_width, 10944);  // 8/3 * 4096 = 10922.7, up to a multiple of 64

  c.width = 24;  // exactly 64 already
  c.ffn_width = 0;
  derive_sizes(c);
  EXPECT_EQ(c.ffn_width, 64);
}

TEST(ModelConfig, ClassificationHasNothingToTie) {
  ModelConfig c = family_defaults(Family::kBert);
  c.task = Task::kClassification;
  derive_sizes(c);
  EXPECT_FALSE(c.tie_embeddings);
}

struct Nonsense {
  const char* name;
  Family family;
  std::function<void(ModelConfig&)> change;
  const char* key;
  const char* reason;
};

class NonsenseTest : public ::testing::TestWithParam<Nonsense> {};

TEST_P(NonsenseTest, IsNamedWithItsReason) {
  ModelConfig config = test::tiny_config(GetParam().family);
  ASSERT_TRUE(find_problems(config).empty());
  GetParam().change(config);
  const std::vector<ModelConfigProblem> problems = find_problems(config);
  ASSERT_EQ(problems.size(), 1U);
  EXPECT_EQ(problems[0].key, GetParam().key);
  EXPECT_THAT(problems[0].message, HasSubstr(GetParam().reason));
}

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

INSTANTIATE_TEST_SUITE_P(
    Table, NonsenseTest,
    ::testing::Values(
        Nonsense{"Layers", Family::kGpt, [](auto& c) { c.layers = 0; }, "layers", "is 0"},
        Nonsense{"Heads", Family::kGpt, [](auto& c) { c.heads = -1; }, "heads", "is -1"},
        Nonsense{"Width", Family::kGpt, [](auto& c) { c.width = 0; }, "width", "between 1"},
        Nonsense{"Ffn", Family::kLlama, [](auto& c) { c.ffn_width = -4; }, "ffn_width", "is -4"},
        Nonsense{"Context", Family::kGpt, [](auto& c) { c.context = 0; }, "context", "is 0"},
        Nonsense{"Vocab", Family::kGpt, [](auto& c) { c.vocab = std::int64_t{1} << 31; }, "vocab",
                 "is 2147483648"},
        Nonsense{"WidthByHeads", Family::kGpt, [](auto& c) { c.heads = c.kv_heads = 3; }, "heads",
                 "must divide width (8)"},
        Nonsense{"HeadsByKvHeads", Family::kLlama, [](auto& c) { c.heads = 4, c.kv_heads = 3; },
                 "kv_heads", "must divide heads (4)"},
        Nonsense{"OddRope", Family::kLlama, [](auto& c) { c.heads = c.kv_heads = 8; }, "positions",
                 "even head width"},
        Nonsense{"OddSinusoidal", Family::kGpt,
                 [](auto& c) {
                   c.width = 9;
                   c.heads = c.kv_heads = 3;
                   c.positions = Positions::kSinusoidal;
                 },
                 "positions", "even width"},
        Nonsense{"Theta", Family::kLlama, [](auto& c) { c.rope_theta = 0.0; }, "rope_theta",
                 "greater than 0"},
        Nonsense{"DropoutOne", Family::kGpt, [](auto& c) { c.dropout = 1.0; }, "dropout", "[0, 1)"},
        Nonsense{"DropoutNegative", Family::kGpt, [](auto& c) { c.dropout = -0.1; }, "dropout",
                 "is -0.1"},
        Nonsense{"DropoutNan", Family::kGpt, [](auto& c) { c.dropout = kNan; }, "dropout", "[0, 1)"},
        Nonsense{"Eps", Family::kGpt, [](auto& c) { c.norm_eps = 0.0; }, "norm_eps",
                 "divides by zero"},
        Nonsense{"Softcap", Family::kGpt, [](auto& c) { c.logit_softcap = -30.0; }, "logit_softcap",
                 "is -30"},
        Nonsense{"InitStd", Family::kGpt, [](auto& c) { c.init_std = 0.0; }, "init_std",
                 "all rows start equal"},
        Nonsense{"BertCausal", Family::kBert, [](auto& c) { c.task = Task::kCausalLm; }, "task",
                 "sees the tokens"},
        Nonsense{"GptMasked", Family::kGpt, [](auto& c) { c.task = Task::kMaskedLm; }, "task",
                 "bidirectional"},
        Nonsense{"LlamaClassification", Family::kLlama,
                 [](auto& c) {
                   c.task = Task::kClassification;
                   c.classes = 3;
                 },
                 "task", "bidirectional"},
        Nonsense{"NoClasses", Family::kBert,
                 [](auto& c) {
                   c.task = Task::kClassification;
                   c.tie_embeddings = false;
                 },
                 "classes", "at least 2"},
        Nonsense{"TiedClassifier", Family::kBert,
                 [](auto& c) {
                   c.task = Task::kClassification;
                   c.classes = 3;
                 },
                 "tie_embeddings", "no output embedding"},
        Nonsense{"ClassesOfLm", Family::kGpt, [](auto& c) { c.classes = 2; }, "classes",
                 "only task classification"},
        Nonsense{"TypesOfGpt", Family::kGpt, [](auto& c) { c.token_types = 2; }, "token_types",
                 "family bert"}),
    [](const auto& parameter) { return parameter.param.name; });

TEST(ModelConfig, NamesEveryProblemAtOnce) {
  ModelConfig config = test::tiny_config(Family::kGpt);
  config.layers = 0;
  config.dropout = 2.0;
  config.classes = 7;
  EXPECT_EQ(find_problems(config).size(), 3U);
}

}  // namespace
}  // namespace lockstep::models
