// The gradient of the whole model, every element of every parameter, in fp64 against central
// differences of its loss.

#include <gtest/gtest.h>

#include <functional>
#include <memory>

#include "models/transformer.h"
#include "tests/support/gradient_check.h"
#include "tests/support/model_fixture.h"

namespace lockstep::models {
namespace {

struct Combination {
  const char* name;
  Family family;
  std::function<void(ModelConfig&)> change = [](ModelConfig&) {};
  ops::LossOptions loss = {};
  std::int64_t split_rows = 0;  // 0: a bucket per group
  double step = 2e-4;           // smaller for activations with a kink
};

void PrintTo(const Combination& combination, std::ostream* out) {
  *out << combination.name;
}

ModelConfig config_of(const Combination& combination) {
  ModelConfig config = test::tiny_config(combination.family);
  combination.change(config);
  derive_sizes(config);
  for (const ModelConfigProblem& problem : find_problems(config))
    ADD_FAILURE() << problem.key << ": " << problem.message;
  return config;
}

double norm_of(std::span<const double> x) {
  double squares = 0.0;
  for (const double v : x)
    squares += v * v;
  return std::sqrt(squares);
}

// The bias of the keys shifts all scores of a row alike: without QK-norm or rotation between it and
// the softmax its gradient is zero, and a relative error of rounding noise would mean nothing.
bool has_zero_gradient(const ModelConfig& config, const std::string& name) {
  return !config.qk_norm && config.positions != Positions::kRope &&
         name.ends_with("attention.k.bias");
}

class ModelGradientTest : public ::testing::TestWithParam<Combination> {};

TEST_P(ModelGradientTest, MatchesCentralDifferences) {
  const ModelConfig config = config_of(GetParam());
  const ParameterTable table(config);
  core::MemoryTracker memory;
  ops::OpContext context(1, memory);
  const test::TokenBatch data(config, 2, 4, 11);
  const MicroBatch batch = data.batch();
  test::StoredParameters parameters(table, core::DType::kF64, 5);
  parameters.perturb(0.25, 5);
  const std::int64_t split = GetParam().split_rows;
  test::StoredGradients gradients(
      table, core::DType::kF64,
      split > 0 ? test::split_buckets(table, split) : test::bucket_per_group(table));

  Transformer model(config, table, core::DType::kF64, 2, 17, context, memory);
  ops::LossOptions options = GetParam().loss;
  options.gradient_weight = 0.25F;
  model.forward(batch, options, parameters);
  model.backward(parameters, gradients);
  ASSERT_EQ(gradients.backwards(), 1);

  const std::function<double()> loss = [&] {
    return 0.25 * model.forward(batch, options, parameters).optimised;
  };
  for (ParameterId id = 0; id < table.size(); ++id) {
    const std::span<const double> analytic = gradients.values<double>(id);
    const std::vector<double> numeric =
        test::numeric_gradient(loss, parameters.values<double>(id), GetParam().step);
    if (has_zero_gradient(config, table[id].name)) {
      EXPECT_LT(norm_of(analytic), 1e-12) << table[id].name;
      continue;
    }
    EXPECT_GT(norm_of(numeric), 1e-7) << table[id].name << " does not matter in this test";
    EXPECT_LT(test::relative_difference(analytic, numeric), 1e-6) << table[id].name;
  }
}

const Combination kCombinations[] = {
    {"Gpt", Family::kGpt},
    {"GptMupBySequence",
     Family::kGpt,
     [](auto& c) {
       c.parametrization = Parametrization::kMup;
       c.mup_base_width = 4;
     },
     {.label_smoothing = 0.1, .sequence_rows = 4}},
    {"LlamaMup", Family::kLlama,
     [](auto& c) {
       c.parametrization = Parametrization::kMup;
       c.mup_base_width = 4;
     }},
    {"GptPostNorm", Family::kGpt, [](auto& c) { c.norm_position = NormPosition::kPost; }},
    {"GptUntiedNoBiasElu", Family::kGpt,
     [](auto& c) {
       c.tie_embeddings = false;
       c.bias = Bias::kNone;
       c.activation = Activation::kElu;
     }},
    {"GptRmsNormSinusoidalGelu", Family::kGpt,
     [](auto& c) {
       c.norm = NormKind::kRmsNorm;
       c.positions = Positions::kSinusoidal;
       c.activation = Activation::kGelu;
     }},
    {"GptDropoutGateRopeQkNorm", Family::kGpt,
     [](auto& c) {
       c.dropout = 0.3;
       c.residual_gate = ResidualGate::kScalar;
       c.positions = Positions::kRope;
       c.qk_norm = true;
     }},
    {"GptGroupedQueriesSmoothing",
     Family::kGpt,
     [](auto& c) {
       c.heads = 4;
       c.kv_heads = 2;
     },
     {.label_smoothing = 0.1, .z_loss = 0.01}},
    {"GptRelu", Family::kGpt, [](auto& c) { c.activation = Activation::kRelu; }, {}, 0, 1e-6},
    {"GptLeakyReluPostNormRmsNormDropout",
     Family::kGpt,
     [](auto& c) {
       c.activation = Activation::kLeakyRelu;
       c.norm_position = NormPosition::kPost;
       c.norm = NormKind::kRmsNorm;
       c.dropout = 0.2;
     },
     {},
     0,
     1e-6},
    {"GptGeGluSoftcapSplit",
     Family::kGpt,
     [](auto& c) {
       c.activation = Activation::kGeGlu;
       c.logit_softcap = 3.0;
       c.tie_embeddings = false;
     },
     {},
     3},
    {"Llama", Family::kLlama},
    {"LlamaGroupedQueriesQkNormTied", Family::kLlama,
     [](auto& c) {
       c.heads = 4;
       c.kv_heads = 1;
       c.qk_norm = true;
       c.tie_embeddings = true;
     }},
    {"LlamaLayerNormBiasSiluSplit",
     Family::kLlama,
     [](auto& c) {
       c.norm = NormKind::kLayerNorm;
       c.bias = Bias::kAll;
       c.activation = Activation::kSilu;
     },
     {.label_smoothing = 0.2},
     4},
    {"LlamaPostNormGateSoftcapLearned",
     Family::kLlama,
     [](auto& c) {
       c.norm_position = NormPosition::kPost;
       c.residual_gate = ResidualGate::kScalar;
       c.logit_softcap = 5.0;
       c.positions = Positions::kLearned;
     },
     {.z_loss = 0.02}},
    {"LlamaDropoutGate", Family::kLlama,
     [](auto& c) {
       c.dropout = 0.25;
       c.residual_gate = ResidualGate::kScalar;
     }},
    {"LlamaAsQwen2WindowedRopeLlama3", Family::kLlama,
     [](auto& c) {
       c.heads = 4;
       c.kv_heads = 2;
       c.bias = Bias::kQkv;
       c.attention_window = {2, 0};
       c.rope_scaling = {ops::RopeScalingKind::kLlama3, 8.0, 1.0, 4.0, 16};
     }},
    {"LlamaAsQwen3WideHeadsLinearRope", Family::kLlama,
     [](auto& c) {
       c.heads = 2;
       c.kv_heads = 1;
       c.given_head_width = 6;
       c.qk_norm = true;
       c.rope_scaling = {ops::RopeScalingKind::kLinear, 4.0};
     }},
    {"GptNarrowHeadsQkvBias", Family::kGpt,
     [](auto& c) {
       c.given_head_width = 1;
       c.bias = Bias::kQkv;
     }},
    {"BertMasked", Family::kBert},
    {"BertMaskedPreNormUntiedSplitDropout",
     Family::kBert,
     [](auto& c) {
       c.norm_position = NormPosition::kPre;
       c.tie_embeddings = false;
       c.dropout = 0.2;
     },
     {.label_smoothing = 0.1},
     2},
    {"BertMaskedGatedNoBiasRmsNorm", Family::kBert,
     [](auto& c) {
       c.activation = Activation::kSwiGlu;
       c.bias = Bias::kNone;
       c.norm = NormKind::kRmsNorm;
       c.qk_norm = true;
     }},
    {"BertClassification", Family::kBert,
     [](auto& c) {
       c.task = Task::kClassification;
       c.classes = 3;
     }},
    {"BertClassificationPreNormDropoutRopeSplit",
     Family::kBert,
     [](auto& c) {
       c.task = Task::kClassification;
       c.classes = 4;
       c.norm_position = NormPosition::kPre;
       c.dropout = 0.2;
       c.positions = Positions::kRope;
     },
     {},
     3},
};

INSTANTIATE_TEST_SUITE_P(Combinations, ModelGradientTest, ::testing::ValuesIn(kCombinations),
                         [](const auto& parameter) { return parameter.param.name; });

}  // namespace
}  // namespace lockstep::models
