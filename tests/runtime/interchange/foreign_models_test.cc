// Models saved by Hugging Face's Transformers (tests/reference/make_huggingface_reference.py): what
// each field of their config.json means; that the same weights give the same loss and gradients.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "core/memory.h"
#include "models/huggingface_names.h"
#include "models/transformer.h"
#include "runtime/checkpoint/huggingface_weights.h"
#include "runtime/config/load_config.h"
#include "runtime/interchange/foreign_check.h"
#include "runtime/interchange/foreign_fields.h"
#include "runtime/interchange/import_config.h"
#include "runtime/interchange/write_foreign_config.h"
#include "tests/support/gradient_check.h"
#include "tests/support/model_fixture.h"
#include "tests/support/recorded.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::runtime {
namespace {

namespace fs = std::filesystem;
using models::Bias;
using models::Family;
using models::ModelConfig;
using models::ParameterId;
using models::ParameterTable;
using models::RopeScaling;
using models::RopeScalingKind;
using nlohmann::json;
using ::testing::HasSubstr;

constexpr std::int64_t kContext = 12;  // of the recorded models
constexpr std::int64_t kSequences = 2;

fs::path recorded(const std::string& name) {
  return testing::recorded_file("huggingface/" + name);
}

json recorded_json(const std::string& name) {
  return json::parse(testing::read_file(recorded(name)));
}

ForeignModel read(const json& config) {
  return read_foreign_model(config.dump(), "config.json");
}

std::string refusal(const json& config) {
  try {
    read(config);
  } catch (const core::Error& error) {
    EXPECT_EQ(error.kind(), core::ErrorKind::kConfig) << error.what();
    return error.what();
  }
  return "";
}

json defaults_of(const std::string& model_type) {
  return recorded_json("defaults.json")[model_type];
}

// The model of a recorded directory with the sequences that it was recorded with.
ModelConfig model_of(const std::string& name) {
  ModelConfig model = read_foreign_model(recorded(name) / "config.json").model;
  model.context = kContext;
  model.dropout = 0.0;
  return model;
}

// ---- Numbers --------------------------------------------------------------------------------

class RecordedModelTest : public ::testing::TestWithParam<std::string> {};

TEST_P(RecordedModelTest, LossAndGradientsAreThoseOfTransformers) {
  const ModelConfig config = model_of(GetParam());
  const ParameterTable table(config);
  test::StoredParameters parameters(table, core::DType::kF64, 1);
  load_parameters(open_weights(recorded(GetParam())), table, config,
                  [&](ParameterId id, std::span<const float> values) {
                    std::copy(values.begin(), values.end(), parameters.values<double>(id).begin());
                  });
  const json reference = recorded_json("reference.json");
  const auto stream = reference["tokens"].get<std::vector<std::int32_t>>();
  constexpr std::size_t kCount = kSequences * kContext;
  const std::span all(stream);
  models::MicroBatch batch;
  batch.sequences = kSequences;
  batch.length = kContext;
  batch.inputs = all.first(kCount);
  batch.targets = all.subspan(1, kCount);
  core::MemoryTracker memory;
  ops::OpContext context(1, memory);
  models::Transformer model(config, table, core::DType::kF64, kSequences, 17, context, memory);
  test::StoredGradients gradients(table, core::DType::kF64);
  ops::LossOptions options;
  options.gradient_weight = 1.0F / kCount;
  const double loss = model.forward(batch, options, parameters).optimised / kCount;
  EXPECT_NEAR(loss, reference["losses"][GetParam()].get<double>(), 1e-6);
  model.backward(parameters, gradients);

  ModelConfig as_stored = config;
  std::vector<std::vector<double>> expected(static_cast<std::size_t>(table.size()));
  load_parameters(open_weights(recorded(GetParam()) / "reference.safetensors"), table, as_stored,
                  [&](ParameterId id, std::span<const float> values) {
                    expected[static_cast<std::size_t>(id)].assign(values.begin(), values.end());
                  });
  for (ParameterId id = 0; id < table.size(); ++id) {
    const std::span<const double> ours = gradients.values<double>(id);
    const std::vector<double>& theirs = expected[static_cast<std::size_t>(id)];
    double largest = 0.0;
    for (const double value : theirs)
      largest = std::max(largest, std::abs(value));
    for (std::size_t i = 0; i < theirs.size(); ++i)
      ASSERT_NEAR(ours[i], theirs[i], 1e-5 * std::max(largest, 1e-3)) << table[id].name << " " << i;
  }
}

TEST_P(RecordedModelTest, LeavesAsItCame) {
  const ModelConfig model = model_of(GetParam());
  EXPECT_THAT(inexpressible(model), ::testing::IsEmpty());
  const ForeignModel back = read(json(foreign_config(model, core::DType::kF32, {})));
  EXPECT_EQ(back.model_type, recorded_json(GetParam() + "/config.json")["model_type"]);
  Config ours;
  ours.model = model;
  EXPECT_THAT(find_differences(back, ours), ::testing::IsEmpty());
}

// What `import` writes is a configuration, of the same model.
TEST_P(RecordedModelTest, IsImported) {
  const ForeignModel foreign = [&] {
    json config = recorded_json(GetParam() + "/config.json");
    for (auto& [name, value] : config.items())
      if (name.ends_with("pdrop") || name.ends_with("dropout_prob")) value = 0.25;
    return read(config);
  }();
  const std::string text = import_config(foreign, recorded(GetParam()));
  std::vector<std::string> overrides = {"backend.device=cpu"};
  if (foreign.model.family == Family::kBert) GTEST_SKIP() << "its data path is not built yet";
  const Config config = parse_config(text, "imported.yaml", overrides);
  EXPECT_THAT(find_differences(foreign, config), ::testing::IsEmpty()) << text;
  EXPECT_TRUE(fs::equivalent(config.init_from, recorded(GetParam())));
  EXPECT_EQ(config.model.dropout, foreign.model.dropout);
}

INSTANTIATE_TEST_SUITE_P(Recorded, RecordedModelTest,
                         ::testing::Values("gpt2", "llama_llama3", "qwen2_tied_sliding", "qwen3",
                                           "mistral_sliding", "bert"),
                         [](const auto& test) { return test.param; });

// ---- Fields ---------------------------------------------------------------------------------

// Another legal value of the same kind.
json changed(const json& value) {
  if (value.is_boolean()) return !value.get<bool>();
  if (value.is_number_integer()) return value.get<std::int64_t>() * 2;
  if (value.is_number()) return value.get<double>() == 0.0 ? 0.5 : value.get<double>() / 2.0;
  if (value.is_string()) return "something else";
  if (value.is_array()) return json::array({"something else"});
  if (value.is_object()) return json{{"something", "else"}};
  return json{{"something", "else"}};  // null
}

bool same_model(const ForeignModel& a, const ForeignModel& b) {
  Config config;
  config.model = b.model;
  return find_differences(a, config).empty() && a.model.context == b.model.context &&
         a.model.task == b.model.task && a.model.classes == b.model.classes &&
         a.dropouts == b.dropouts;
}

// Every field that Transformers writes for a family, with another value: the model read is another
// one, or the field is refused by name, or the table calls it harmless.
TEST(ForeignFields, EveryFieldIsUsedRefusedOrHarmless) {
  // Of no effect unless another field gives it one.
  const std::set<std::string> conditional = {
      "max_window_layers", "sliding_window", "use_sliding_window", "id2label",
      "problem_type",      "pad_token_id",   "rope_theta"};
  for (const ForeignFamily& family : foreign_families()) {
    const std::string type(family.model_type);
    const json defaults = defaults_of(type);
    ASSERT_TRUE(defaults.is_object()) << type;
    const ForeignModel usual = read(defaults);
    for (const auto& [field, value] : defaults.items()) {
      if (field == "model_type") continue;
      SCOPED_TRACE(type + "." + field);
      const auto row = std::find_if(family.fields.begin(), family.fields.end(),
                                    [&](const auto& each) { return each.name == field; });
      ASSERT_NE(row, family.fields.end());
      json config = defaults;
      config[field] = changed(value);
      if (field == "num_hidden_layers") config.erase("layer_types");  // which has one a layer
      const std::string message = refusal(config);
      if (row->read == nullptr) {
        EXPECT_EQ(message, "");
        EXPECT_TRUE(same_model(read(config), usual));
      } else if (message.empty() && !conditional.contains(field)) {
        EXPECT_FALSE(same_model(read(config), usual)) << "accepted and ignored";
      } else if (!message.empty() && field.find("size") == std::string::npos) {
        EXPECT_TRUE(message.find(field) != std::string::npos ||
                    message.find("model.") != std::string::npos)
            << message;
      }
    }
  }
}

// A field that is not there has the value of Transformers' class, which differs between families.
TEST(ForeignFields, AMissingFieldHasTheValueOfItsClass) {
  for (const ForeignFamily& family : foreign_families()) {
    const json defaults = defaults_of(std::string(family.model_type));
    const ForeignModel usual = read(defaults);
    for (const auto& [field, value] : defaults.items()) {
      if (field == "model_type") continue;
      json config = defaults;
      config.erase(field);
      EXPECT_TRUE(same_model(read(config), usual)) << family.model_type << "." << field;
    }
    EXPECT_TRUE(same_model(read({{"model_type", family.model_type}}), usual)) << family.model_type;
  }
}

TEST(ForeignFields, UnknownFieldsAndTypesAreRefusedByName) {
  json config = defaults_of("llama");
  config["residual_multiplier"] = 0.22;
  EXPECT_THAT(refusal(config), HasSubstr("residual_multiplier 0.22"));
  for (const char* type : {"gemma2", "phi3", "olmo2", "granite", "smollm3", "roberta", "GPT2"}) {
    const std::string message = refusal({{"model_type", type}});
    EXPECT_THAT(message, HasSubstr(type));
    EXPECT_THAT(message, HasSubstr("bert, gpt2, llama, mistral, qwen2, qwen3"));
  }
  EXPECT_THAT(refusal({{"hidden_size", 8}}), HasSubstr("model_type"));
  config = defaults_of("llama");
  config["quantization_config"] = {{"bits", 4}};
  EXPECT_THAT(refusal(config), HasSubstr("quantization_config"));
  config = defaults_of("llama");
  config["architectures"] = {"LlamaForSequenceClassification"};
  EXPECT_THAT(refusal(config), HasSubstr("architectures"));
  EXPECT_THROW(read_foreign_model("[1]", "config.json"), core::Error);
  try {
    read_foreign_model("version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "c");
    ADD_FAILURE();
  } catch (const core::Error& error) {
    EXPECT_EQ(error.kind(), core::ErrorKind::kData);
    EXPECT_THAT(error.what(), HasSubstr("Git LFS pointer"));
  }
}

TEST(ForeignFields, RopeIsReadFromBothForms) {
  json config = defaults_of("llama");
  config.erase("rope_parameters");
  config["rope_theta"] = 5e5;
  EXPECT_EQ(read(config).model.rope_theta, 5e5);
  EXPECT_EQ(read(config).model.rope_scaling, RopeScaling{});
  config["rope_scaling"] = {{"type", "linear"}, {"factor", 4.0}};
  EXPECT_EQ(read(config).model.rope_scaling, (RopeScaling{RopeScalingKind::kLinear, 4.0}));
  config["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", 8.0},
                            {"low_freq_factor", 1.0},
                            {"high_freq_factor", 4.0}};
  EXPECT_EQ(read(config).model.rope_scaling,
            (RopeScaling{RopeScalingKind::kLlama3, 8.0, 1.0, 4.0, 2048}))
      << "original_max_position_embeddings is max_position_embeddings";
  config["rope_scaling"]["original_max_position_embeddings"] = 512;
  EXPECT_EQ(read(config).model.rope_scaling.original_context, 512);
  config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 7.0}};
  EXPECT_EQ(read(config).model.rope_scaling.original_context, 512) << "rope_scaling comes first";
  EXPECT_EQ(read(config).model.rope_theta, 5e5);
  config["rope_scaling"] = nullptr;
  EXPECT_EQ(read(config).model.rope_theta, 7.0) << "the one within wins";
  for (const char* type : {"yarn", "dynamic", "longrope", "su"}) {
    config["rope_scaling"] = {{"type", type}, {"factor", 2.0}};
    EXPECT_THAT(refusal(config), HasSubstr(type));
  }
  config["rope_scaling"] = {{"type", "linear"}, {"factor", 2.0}, {"partial_rotary_factor", 0.5}};
  EXPECT_THAT(refusal(config), HasSubstr("partial_rotary_factor"));
}

TEST(ForeignFields, WindowsFollowTheLayers) {
  json config = defaults_of("qwen2");
  config["num_hidden_layers"] = 4;
  config["use_sliding_window"] = true;
  config["sliding_window"] = 16;
  config["max_window_layers"] = 3;
  config["layer_types"] = nullptr;
  using Windows = std::vector<std::int64_t>;
  EXPECT_EQ(read(config).model.attention_window, (Windows{0, 0, 0, 16}));
  config["max_window_layers"] = 0;
  EXPECT_EQ(read(config).model.attention_window, Windows{16});
  config["layer_types"] = {"sliding_attention", "full_attention", "sliding_attention",
                           "full_attention"};
  EXPECT_EQ(read(config).model.attention_window, (Windows{16, 0}));
  config["use_sliding_window"] = false;
  EXPECT_THAT(refusal(config), HasSubstr("layer_types"));
  config = defaults_of("mistral");
  EXPECT_EQ(read(config).model.attention_window, Windows{4096});
  config["sliding_window"] = nullptr;
  EXPECT_EQ(read(config).model.attention_window, Windows{});
}

// ---- Comparison with a configuration -----------------------------------------------------------

Config configured(const ForeignModel& foreign) {
  Config config;
  config.model = foreign.model;
  return config;
}

std::string difference(const ForeignModel& foreign, const Config& config) {
  try {
    require_same_model(foreign, config, "config.json");
  } catch (const core::Error& error) {
    EXPECT_EQ(error.kind(), core::ErrorKind::kConfig);
    return error.what();
  }
  return "";
}

TEST(ForeignCheck, EveryDifferenceIsNamedWithWhatMendsIt) {
  const ForeignModel foreign = read(defaults_of("llama"));
  EXPECT_EQ(difference(foreign, configured(foreign)), "");
  Config config = configured(foreign);
  config.model.norm_eps = 1e-5;
  config.model.kv_heads = 8;
  config.model.rope_theta = 5e5;
  const std::string message = difference(foreign, config);
  EXPECT_THAT(message, HasSubstr("model.norm_eps is 1e-5, there 1e-6 (rms_norm_eps)"));
  EXPECT_THAT(message, HasSubstr("model.kv_heads is 8, there 32 (num_key_value_heads)"));
  EXPECT_THAT(message, HasSubstr("--set model.norm_eps=1e-6"));
  EXPECT_THAT(message, HasSubstr("--set model.rope_theta=10000"));
}

TEST(ForeignCheck, WhatTraceLeavesNothingInShapesIsFound) {
  const ForeignModel foreign = read(defaults_of("qwen3"));
  const std::vector<std::pair<std::string, std::function<void(ModelConfig&)>>> changes = {
      {"model.activation", [](auto& c) { c.activation = models::Activation::kGeGlu; }},
      {"model.attention_window",
       [](auto& c) {
         c.attention_window = {2, 0};
       }},
      {"model.rope_scaling.type",
       [](auto& c) {
         c.rope_scaling = {RopeScalingKind::kLinear, 2.0};
       }},
      {"model.logit_softcap", [](auto& c) { c.logit_softcap = 30.0; }},
      {"model.norm_position", [](auto& c) { c.norm_position = models::NormPosition::kPost; }},
      {"model.head_width", [](auto& c) { c.given_head_width = 64; }},
      {"model.qk_norm", [](auto& c) { c.qk_norm = false; }},
      {"model.positions", [](auto& c) { c.positions = models::Positions::kSinusoidal; }},
      {"model.bias", [](auto& c) { c.bias = Bias::kQkv; }},
  };
  for (const auto& [key, change] : changes) {
    Config config = configured(foreign);
    change(config.model);
    config.model.context = 1024;
    EXPECT_THAT(difference(foreign, config), HasSubstr(key)) << key;
  }
}

TEST(ForeignCheck, AWindowBeyondTheContextIsNoDifference) {
  const ForeignModel foreign = read(defaults_of("mistral"));
  Config config = configured(foreign);
  config.model.attention_window = {};
  config.model.context = 4096;
  EXPECT_EQ(difference(foreign, config), "");
  config.model.context = 4097;
  EXPECT_THAT(difference(foreign, config), HasSubstr("model.attention_window"));
}

TEST(ForeignCheck, ContextIsFreeWithoutATableOfPositions) {
  const ForeignModel llama = read(defaults_of("llama"));
  Config config = configured(llama);
  config.model.context = 64;
  EXPECT_EQ(difference(llama, config), "");
  const ForeignModel gpt2 = read(defaults_of("gpt2"));
  config = configured(gpt2);
  config.model.context = 64;
  config.model.vocab = 50304;
  EXPECT_THAT(difference(gpt2, config), HasSubstr("model.init_resize=true"));
  config.init_resize = true;
  EXPECT_EQ(difference(gpt2, config), "");
}

TEST(WriteForeignConfig, WhatCannotBeSaidIsNamed) {
  ModelConfig model = read(defaults_of("gpt2")).model;
  model.norm_position = models::NormPosition::kPost;
  EXPECT_THAT(inexpressible(model), ::testing::ElementsAre(HasSubstr("model.norm_position: post")));
  model = read(defaults_of("llama")).model;
  model.logit_softcap = 30.0;
  model.residual_gate = models::ResidualGate::kScalar;
  EXPECT_THAT(inexpressible(model),
              ::testing::UnorderedElementsAre(HasSubstr("model.logit_softcap: 30"),
                                              HasSubstr("model.residual_gate: scalar")));
  model = read(defaults_of("gpt2")).model;
  model.activation = models::Activation::kElu;
  EXPECT_THAT(inexpressible(model), ::testing::ElementsAre(HasSubstr("model.activation")));
  model.activation = models::Activation::kSwiGlu;
  EXPECT_THAT(inexpressible(model), ::testing::Contains(HasSubstr("model.activation")));
}

}  // namespace
}  // namespace lockstep::runtime
