#include "runtime/checkpoint/huggingface_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "models/huggingface_names.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::runtime {
namespace {

using core::DType;
using lockstep::testing::read_file;
using lockstep::testing::TemporaryDirectory;
using models::Family;
using models::ModelConfig;
using models::ParameterId;
using models::ParameterTable;
using ::testing::HasSubstr;

ModelConfig tiny(Family family) {
  ModelConfig config = models::family_defaults(family);
  config.layers = 2;
  config.heads = 2;
  config.width = 6;
  config.context = 5;
  config.vocab = 7;
  if (family == Family::kBert) config.token_types = 2;
  derive_sizes(config);
  return config;
}

using Values = std::vector<std::vector<float>>;  // by ParameterId, canonical order

Values make_values(const ParameterTable& table) {
  Values values;
  for (ParameterId id = 0; id < table.size(); ++id) {
    values.emplace_back(static_cast<std::size_t>(table[id].elements()));
    for (std::size_t i = 0; i < values.back().size(); ++i)
      values.back()[i] = static_cast<float>(id) + static_cast<float>(i) / 4096.0F;
  }
  return values;
}

void save(const std::filesystem::path& path, const ModelConfig& config, const Values& values) {
  const ParameterTable table(config);
  HuggingFaceWriter writer(path, table, config);
  for (ParameterId id = 0; id < table.size(); ++id)
    writer.write(id, values[static_cast<std::size_t>(id)]);
  writer.finish(Durability::kCached);
}

struct Loaded {
  Values values;
  std::vector<std::string> passed_over;
  std::vector<std::string> resized;
  std::vector<std::string> fresh;
};

Loaded load(const std::filesystem::path& path, const ModelConfig& config,
            const LoadOptions& options = {}) {
  const ParameterTable table(config);
  Loaded loaded;
  const LoadedWeights weights = load_parameters(
      open_weights(path), table, config,
      [&](ParameterId id, std::span<const float> values) {
        EXPECT_EQ(static_cast<std::size_t>(id), loaded.values.size());
        loaded.values.emplace_back(values.begin(), values.end());
      },
      options);
  loaded.passed_over = weights.passed_over;
  loaded.resized = weights.resized;
  loaded.fresh = weights.fresh;
  return loaded;
}

// A tensor in memory, to build files as others would.
struct Tensor {
  std::string name;
  std::vector<std::int64_t> shape;
  std::vector<float> values;
};

void write_file(const std::filesystem::path& path, const std::vector<Tensor>& tensors,
                DType dtype = DType::kF32) {
  std::vector<TensorToWrite> list;
  for (const Tensor& t : tensors)
    list.push_back({t.name, dtype, t.shape});
  SafetensorsWriter writer(path, list);
  for (const Tensor& t : tensors) {
    std::vector<std::byte> bytes(t.values.size() * core::size_of(dtype));
    core::convert(DType::kF32, t.values.data(), dtype, bytes.data(), t.values.size());
    writer.write(t.name, bytes);
  }
  writer.finish(Durability::kCached);
}

std::vector<Tensor> read_tensors(const std::filesystem::path& path) {
  const SafetensorsFile file(path);
  std::vector<Tensor> tensors;
  for (const StoredTensor& stored : file.tensors()) {
    tensors.push_back({stored.name, stored.shape, std::vector<float>(stored.elements)});
    file.read(stored, tensors.back().values);
  }
  return tensors;
}

Tensor& tensor_named(std::vector<Tensor>& tensors, const std::string& name) {
  const auto found =
      std::find_if(tensors.begin(), tensors.end(), [&](const Tensor& t) { return t.name == name; });
  EXPECT_NE(found, tensors.end()) << name;
  return *found;
}

std::string load_error(const std::filesystem::path& path, const ModelConfig& config) {
  try {
    load(path, config);
  } catch (const core::Error& error) {
    EXPECT_EQ(error.kind(), core::ErrorKind::kData) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "expected a data error, found none";
  return "";
}

TEST(HuggingFaceWeights, RoundTripEveryFamily) {
  const TemporaryDirectory dir;
  for (const Family family : {Family::kGpt, Family::kLlama, Family::kBert}) {
    for (const bool extras : {false, true}) {
      ModelConfig config = tiny(family);
      if (extras) {
        config.qk_norm = true;
        config.residual_gate = models::ResidualGate::kScalar;
        config.activation = models::Activation::kGeGlu;
        config.tie_embeddings = false;
        config.norm_position = models::NormPosition::kPre;
      }
      const Values values = make_values(ParameterTable(config));
      save(dir / "a.safetensors", config, values);
      EXPECT_EQ(load(dir / "a.safetensors", config).values, values);
      save(dir / "b.safetensors", config, values);
      EXPECT_EQ(read_file(dir / "a.safetensors"), read_file(dir / "b.safetensors"));
      EXPECT_EQ(SafetensorsFile(dir / "a.safetensors").metadata().at("format"), "pt");
    }
  }
}

TEST(HuggingFaceWeights, StoresTheLinearWeightsOfGpt2Transposed) {
  const TemporaryDirectory dir;
  const ModelConfig config = tiny(Family::kGpt);
  const ParameterTable table(config);
  const Values values = make_values(table);
  save(dir / "m.safetensors", config, values);
  std::vector<Tensor> tensors = read_tensors(dir / "m.safetensors");
  const Tensor& stored = tensor_named(tensors, "transformer.h.1.attn.c_attn.weight");
  const ParameterId id = table.find("block.1.attention.qkv.weight");
  const std::vector<float>& canonical = values[static_cast<std::size_t>(id)];
  ASSERT_EQ(stored.shape, (std::vector<std::int64_t>{6, 18}));
  for (std::size_t in = 0; in < 6; ++in)
    for (std::size_t out = 0; out < 18; ++out)
      ASSERT_EQ(stored.values[in * 18 + out], canonical[out * 6 + in]);
  EXPECT_EQ(tensor_named(tensors, "transformer.wte.weight").shape,
            (std::vector<std::int64_t>{7, 6}));
}

TEST(HuggingFaceWeights, AreReadWithAndWithoutPrefix) {
  const TemporaryDirectory dir;
  for (const Family family : {Family::kGpt, Family::kLlama, Family::kBert}) {
    const ModelConfig config = tiny(family);
    const Values values = make_values(ParameterTable(config));
    save(dir / "full.safetensors", config, values);
    std::vector<Tensor> tensors = read_tensors(dir / "full.safetensors");
    std::reverse(tensors.begin(), tensors.end());
    for (Tensor& t : tensors) {
      const std::string bare = models::bare_huggingface_name(family, t.name);
      EXPECT_TRUE(bare != t.name || bare.starts_with("lm_head") || bare.starts_with("cls."));
      t.name = bare;
    }
    write_file(dir / "bare.safetensors", tensors);
    EXPECT_EQ(load(dir / "bare.safetensors", config).values, values);
    tensors.push_back(tensors.back());
    tensors.back().name = family == Family::kGpt     ? "transformer.wte.weight"
                          : family == Family::kLlama ? "model.embed_tokens.weight"
                                                     : "bert.embeddings.word_embeddings.weight";
    write_file(dir / "double.safetensors", tensors);
    EXPECT_THAT(load_error(dir / "double.safetensors", config), HasSubstr("double: "));
  }
}

TEST(HuggingFaceWeights, AreReadFromEveryFloatingType) {
  const TemporaryDirectory dir;
  const ModelConfig config = tiny(Family::kGpt);
  Values values = make_values(ParameterTable(config));
  for (auto& list : values)
    for (float& value : list)
      value = static_cast<float>(static_cast<int>(value * 64) % 128);  // exact in every type
  save(dir / "m.safetensors", config, values);
  const std::vector<Tensor> tensors = read_tensors(dir / "m.safetensors");
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kF16, DType::kBF16}) {
    write_file(dir / "t.safetensors", tensors, dtype);
    EXPECT_EQ(load(dir / "t.safetensors", config).values, values) << core::name_of(dtype);
  }
}

TEST(HuggingFaceWeights, PassOverBuffersAndEqualTiedOutputs) {
  const TemporaryDirectory dir;
  const ModelConfig config = tiny(Family::kGpt);
  const Values values = make_values(ParameterTable(config));
  save(dir / "m.safetensors", config, values);
  std::vector<Tensor> tensors = read_tensors(dir / "m.safetensors");
  Tensor head = tensor_named(tensors, "transformer.wte.weight");
  head.name = "lm_head.weight";
  tensors.push_back(head);
  tensors.push_back({"transformer.h.0.attn.bias", {1, 1, 2, 2}, {1, 0, 1, 1}});
  tensors.push_back({"h.1.attn.masked_bias", {}, {-10000.0F}});
  write_file(dir / "extras.safetensors", tensors);
  const Loaded loaded = load(dir / "extras.safetensors", config);
  EXPECT_EQ(loaded.values, values);
  EXPECT_EQ(loaded.passed_over,
            (std::vector<std::string>{"lm_head.weight", "transformer.h.0.attn.bias",
                                      "h.1.attn.masked_bias"}));
  tensor_named(tensors, "lm_head.weight").values.back() += 1.0F;
  write_file(dir / "other.safetensors", tensors);
  EXPECT_THAT(load_error(dir / "other.safetensors", config),
              HasSubstr("model.tie_embeddings: false"));
  ModelConfig untied = config;
  untied.tie_embeddings = false;
  EXPECT_EQ(load(dir / "other.safetensors", untied).values.back().back(), values[0].back() + 1.0F);
}

TEST(HuggingFaceWeights, AcceptOldNamesAndTheUnusedHeadsOfBert) {
  const TemporaryDirectory dir;
  const ModelConfig config = tiny(Family::kBert);
  const Values values = make_values(ParameterTable(config));
  save(dir / "m.safetensors", config, values);
  std::vector<Tensor> tensors = read_tensors(dir / "m.safetensors");
  const auto rename = [](std::string& name, const std::string& from, const std::string& to) {
    if (name.ends_with(from)) name.replace(name.size() - from.size(), from.size(), to);
  };
  for (Tensor& t : tensors) {
    rename(t.name, "LayerNorm.weight", "LayerNorm.gamma");
    rename(t.name, "LayerNorm.bias", "LayerNorm.beta");
  }
  tensors.push_back({"bert.pooler.dense.bias", {6}, std::vector<float>(6)});
  tensors.push_back({"cls.seq_relationship.bias", {2}, std::vector<float>(2)});
  Tensor copy = tensor_named(tensors, "cls.predictions.bias");
  copy.name = "cls.predictions.decoder.bias";
  tensors.push_back(copy);
  write_file(dir / "old.safetensors", tensors);
  const Loaded loaded = load(dir / "old.safetensors", config);
  EXPECT_EQ(loaded.values, values);
  EXPECT_EQ(loaded.passed_over.size(), 3U);
}

TEST(HuggingFaceWeights, RefuseDifferencesWithAList) {
  const TemporaryDirectory dir;
  const ModelConfig config = tiny(Family::kLlama);
  save(dir / "m.safetensors", config, make_values(ParameterTable(config)));
  std::vector<Tensor> tensors = read_tensors(dir / "m.safetensors");
  tensor_named(tensors, "model.norm.weight").name = "model.nrom.weight";
  Tensor& up = tensor_named(tensors, "model.layers.1.mlp.up_proj.weight");
  std::swap(up.shape[0], up.shape[1]);
  write_file(dir / "bad.safetensors", tensors);
  const std::string message = load_error(dir / "bad.safetensors", config);
  EXPECT_THAT(message, HasSubstr("bad.safetensors"));
  EXPECT_THAT(message, HasSubstr("unknown: model.nrom.weight"));
  EXPECT_THAT(message, HasSubstr("missing: model.norm.weight [6]"));
  EXPECT_THAT(message, HasSubstr("shape: model.layers.1.mlp.up_proj.weight is [6, 64], expected "
                                 "[64, 6]"));
  EXPECT_THAT(load_error(dir / "m.safetensors", tiny(Family::kGpt)), HasSubstr(" more"));

  ModelConfig deeper = config;
  deeper.layers = 3;
  EXPECT_THAT(load_error(dir / "m.safetensors", deeper), HasSubstr("missing: model.layers.2."));

  write_file(dir / "types.safetensors",
             {{"transformer.wte.weight", {7, 6}, std::vector<float>(42)}});
  ModelConfig untied = tiny(Family::kGpt);
  untied.tie_embeddings = false;
  untied.layers = 1;
  EXPECT_THAT(load_error(dir / "types.safetensors", untied),
              HasSubstr("missing: lm_head.weight [7, 6] (a file without it has "
                        "model.tie_embeddings: true)"));
}

TEST(HuggingFaceWeights, RefuseIntegerParameters) {
  const TemporaryDirectory dir;
  const ModelConfig config = tiny(Family::kGpt);
  save(dir / "m.safetensors", config, make_values(ParameterTable(config)));
  std::string bytes = read_file(dir / "m.safetensors");
  const std::size_t place = bytes.find("F32");
  bytes.replace(place, 3, "I32");
  EXPECT_THAT(load_error(dir.write("i.safetensors", bytes), config),
              HasSubstr("type: transformer.wte.weight is I32"));
}

TEST(HuggingFaceWeights, AreReadFromDirectoriesAndShards) {
  const TemporaryDirectory dir;
  const ModelConfig config = tiny(Family::kLlama);
  const Values values = make_values(ParameterTable(config));
  std::filesystem::create_directory(dir / "whole");
  std::filesystem::create_directory(dir / "sharded");
  save(dir / "whole/model.safetensors", config, values);
  EXPECT_EQ(load(dir / "whole", config).values, values);

  const std::vector<Tensor> tensors = read_tensors(dir / "whole/model.safetensors");
  const auto half = tensors.begin() + static_cast<std::ptrdiff_t>(tensors.size() / 2);
  write_file(dir / "sharded/one.safetensors", {tensors.begin(), half});
  write_file(dir / "sharded/two.safetensors", {half, tensors.end()});
  std::string map;
  for (auto t = tensors.begin(); t != tensors.end(); ++t)
    map += (map.empty() ? "\"" : ",\"") + t->name +
           (t < half ? "\":\"one.safetensors\"" : "\":\"two.safetensors\"");
  const char* index = "sharded/model.safetensors.index.json";
  dir.write(index, R"({"metadata":{},"weight_map":{)" + map + "}}");
  EXPECT_EQ(load(dir / "sharded", config).values, values);
  EXPECT_EQ(load(dir / index, config).values, values);

  dir.write(index, R"({"weight_map":{"x":"one.safetensors"}})");
  EXPECT_THAT(load_error(dir / "sharded", config), HasSubstr("expected tensor \"x\""));
  dir.write(index, R"({"weight_map":{"x":"../whole/model.safetensors"}})");
  EXPECT_THAT(load_error(dir / "sharded", config), HasSubstr("file beside it"));
  dir.write(index, R"({"weight_map":{}})");
  EXPECT_THAT(load_error(dir / "sharded", config), HasSubstr("found none"));
  dir.write(index, "[");
  EXPECT_THAT(load_error(dir / "sharded", config), HasSubstr("weight_map"));
  EXPECT_THAT(load_error(dir.path(), config), HasSubstr("found neither"));
}

TEST(HuggingFaceWeights, ATiedFileMayHoldItsOutputAlone) {
  const TemporaryDirectory dir;
  ModelConfig config = tiny(Family::kLlama);
  config.tie_embeddings = true;
  const Values values = make_values(ParameterTable(config));
  save(dir / "m.safetensors", config, values);
  std::vector<Tensor> tensors = read_tensors(dir / "m.safetensors");
  tensor_named(tensors, "model.embed_tokens.weight").name = "lm_head.weight";
  write_file(dir / "tied.safetensors", tensors);
  const Loaded loaded = load(dir / "tied.safetensors", config);
  EXPECT_EQ(loaded.values, values);
  EXPECT_THAT(loaded.passed_over, ::testing::IsEmpty());
  config.tie_embeddings = false;
  EXPECT_THAT(load_error(dir / "tied.safetensors", config), HasSubstr("model.embed_tokens"));
}

TEST(HuggingFaceWeights, PrefixesOfWrappersAreTakenOff) {
  const TemporaryDirectory dir;
  const ModelConfig config = tiny(Family::kGpt);
  const Values values = make_values(ParameterTable(config));
  save(dir / "m.safetensors", config, values);
  for (const char* wrapper : {"module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."}) {
    std::vector<Tensor> tensors = read_tensors(dir / "m.safetensors");
    for (Tensor& tensor : tensors)
      tensor.name = wrapper + tensor.name;
    write_file(dir / "w.safetensors", tensors);
    EXPECT_EQ(load(dir / "w.safetensors", config).values, values) << wrapper;
  }
}

TEST(HuggingFaceWeights, RowsAreCutOrPaddedWhereAsked) {
  const TemporaryDirectory dir;
  const ModelConfig config = tiny(Family::kGpt);
  const Values values = make_values(ParameterTable(config));
  save(dir / "m.safetensors", config, values);
  ModelConfig other = config;
  other.vocab = 9;
  other.context = 3;
  EXPECT_THAT(load_error(dir / "m.safetensors", other), HasSubstr("model.init_resize=true"));
  const Loaded loaded = load(dir / "m.safetensors", other, {.resize = true, .seed = 4});
  EXPECT_THAT(loaded.resized, ::testing::ElementsAre("transformer.wte.weight [7, 6] to [9, 6]",
                                                     "transformer.wpe.weight [5, 6] to [3, 6]"));
  const ParameterTable table(other);
  const auto at = [&](const char* name) { return static_cast<std::size_t>(table.find(name)); };
  const std::vector<float>& tokens = loaded.values[at("embeddings.token.weight")];
  std::vector<float> padding(9 * 6);
  models::initialize(table[table.find("embeddings.token.weight")], 4, padding.data());
  EXPECT_TRUE(std::equal(values[0].begin(), values[0].end(), tokens.begin()));
  EXPECT_TRUE(std::equal(padding.begin() + 7 * 6, padding.end(), tokens.begin() + 7 * 6));
  const std::vector<float>& positions = loaded.values[at("embeddings.position.weight")];
  EXPECT_TRUE(std::equal(positions.begin(), positions.end(), values[1].begin()));
  other.width = 8;
  derive_sizes(other);
  EXPECT_THROW(load(dir / "m.safetensors", other, {.resize = true}), core::Error);
}

TEST(HuggingFaceWeights, AClassifierMayBeNew) {
  const TemporaryDirectory dir;
  const ModelConfig masked = tiny(Family::kBert);
  save(dir / "m.safetensors", masked, make_values(ParameterTable(masked)));
  ModelConfig classes = masked;
  classes.task = models::Task::kClassification;
  classes.classes = 3;
  derive_sizes(classes);
  EXPECT_THAT(load_error(dir / "m.safetensors", classes), HasSubstr("missing: bert.pooler"));
  const Loaded loaded = load(dir / "m.safetensors", classes, {.new_head = true});
  EXPECT_THAT(loaded.fresh,
              ::testing::ElementsAre("head.pooler.weight", "head.pooler.bias",
                                     "head.classifier.weight", "head.classifier.bias"));
}

TEST(HuggingFaceWeights, ValuesThatAreNotFiniteNameTensorAndFile) {
  const TemporaryDirectory dir;
  const ModelConfig config = tiny(Family::kLlama);
  save(dir / "m.safetensors", config, make_values(ParameterTable(config)));
  for (const float bad : {std::nanf(""), HUGE_VALF}) {
    std::vector<Tensor> tensors = read_tensors(dir / "m.safetensors");
    tensor_named(tensors, "model.layers.1.mlp.up_proj.weight").values[3] = bad;
    write_file(dir / "bad.safetensors", tensors);
    const std::string message = load_error(dir / "bad.safetensors", config);
    EXPECT_THAT(message, HasSubstr("bad.safetensors"));
    EXPECT_THAT(message, HasSubstr("\"model.layers.1.mlp.up_proj.weight\""));
    EXPECT_THAT(message, HasSubstr("at element 3"));
  }
}

TEST(HuggingFaceWeights, PointersAndPicklesAreCalledByTheirNames) {
  const TemporaryDirectory dir;
  const ModelConfig config = tiny(Family::kLlama);
  dir.write("p.safetensors",
            "version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 12345\n");
  EXPECT_THAT(load_error(dir / "p.safetensors", config), HasSubstr("Git LFS pointer"));
  dir.write("pytorch_model.bin", "PK");
  EXPECT_THAT(load_error(dir.path(), config), HasSubstr("pytorch_model.bin, a pickle"));
}

TEST(HuggingFaceWeights, AreWrittenInParts) {
  const TemporaryDirectory dir;
  const ModelConfig config = tiny(Family::kGpt);
  const ParameterTable table(config);
  const Values values = make_values(table);
  const WeightsFormat half{DType::kBF16, {0, 2}};
  HuggingFaceWriter writer(dir / "part.safetensors", table, config, {}, half);
  writer.write(0, values[0]);
  writer.write(2, values[2]);
  writer.finish(Durability::kCached);
  const SafetensorsFile file(dir / "part.safetensors");
  EXPECT_EQ(file.tensors().size(), 2U);
  EXPECT_EQ(file.tensors().front().stored_type, "BF16");
  HuggingFaceWriter narrow(dir / "f16.safetensors", table, config, {}, {DType::kF16, {2}});
  EXPECT_THROW(narrow.write(2, std::vector<float>(values[2].size(), 70000.0F)), core::Error);
}

}  // namespace
}  // namespace lockstep::runtime
