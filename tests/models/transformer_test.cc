#include "models/transformer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <string>

#include "core/error.h"
#include "models/activations.h"
#include "models/embedding.h"
#include "tests/support/gradient_check.h"
#include "tests/support/model_fixture.h"

namespace lockstep::models {
namespace {

// A model with everything it needs, at `threads` threads.
struct Rig {
  explicit Rig(const ModelConfig& model_config, core::DType compute = core::DType::kF32,
               std::int64_t max_sequences = 4, int threads = 1,
               Recompute recompute = Recompute::kNone)
      : config(model_config),
        table(config),
        context(threads, memory),
        parameters(table, compute, 5),
        gradients(table, compute),
        model(config, table, compute, max_sequences, 17, context, memory, recompute) {
    parameters.perturb(0.1, 5);
  }

  ops::LossSums train(const MicroBatch& batch, const ops::LossOptions& options = {}) {
    const ops::LossSums sums = model.forward(batch, options, parameters);
    model.backward(parameters, gradients);
    return sums;
  }

  ModelConfig config;
  ParameterTable table;
  core::MemoryTracker memory;
  ops::OpContext context;
  test::StoredParameters parameters;
  test::StoredGradients gradients;
  Transformer model;
};

ModelConfig dropout_config() {
  ModelConfig config = test::tiny_config(Family::kGpt);
  config.dropout = 0.3;
  return config;
}

ModelConfig classification_config() {
  ModelConfig config = test::tiny_config(Family::kBert);
  config.task = Task::kClassification;
  config.classes = 3;
  derive_sizes(config);
  return config;
}

// Models that together have every slot of the memory plan.
std::vector<ModelConfig> various_configs() {
  ModelConfig llama = test::tiny_config(Family::kLlama);
  llama.qk_norm = true;
  llama.residual_gate = ResidualGate::kScalar;
  ModelConfig sinusoidal = dropout_config();
  sinusoidal.positions = Positions::kSinusoidal;
  return {dropout_config(), llama, sinusoidal, test::tiny_config(Family::kBert),
          classification_config()};
}

TEST(Transformer, MemoryRegionsAreWhatIsAllocated) {
  for (const ModelConfig& config : various_configs()) {
    for (const core::DType compute : {core::DType::kF32, core::DType::kBF16, core::DType::kF64}) {
      Rig rig(config, compute, 3);
      const test::TokenBatch data(config, 3, config.context, 1);
      rig.train(data.batch());
      std::map<std::string, core::MemoryTracker::Usage> counted = rig.memory.regions();
      counted.erase("workspace");
      for (const MemoryRegion& region : Transformer::memory_regions(config, compute, 3)) {
        EXPECT_EQ(counted[region.name].current, region.bytes) << region.name;
        EXPECT_EQ(counted[region.name].peak, region.bytes) << region.name;
        EXPECT_GT(region.bytes, 0U) << region.name;
        counted.erase(region.name);
      }
      EXPECT_TRUE(counted.empty()) << counted.begin()->first << " is not predicted";
    }
  }
}

// On a device every row begins on 64 bytes; on the CPU rows follow one another, as they always did:
// its library's bits depend on the strides.
TEST(Transformer, RowsOfLogitsAreSpacedOutOnADeviceOnly) {
  for (ModelConfig config : various_configs()) {
    config.vocab = 50257;
    const bool classifies = config.task == Task::kClassification;
    const std::int64_t rows = 3 * (classifies ? 1 : config.context);
    const auto bytes_of = [&](const ActivationPlan& plan) {
      return static_cast<std::size_t>(rows * plan.head.logits_stride) * sizeof(float);
    };
    const ActivationPlan cpu(config, core::DType::kBF16, 3);
    EXPECT_EQ(cpu.head.logits_stride, classifies ? config.classes : 50257);
    EXPECT_EQ(cpu.head.logits.bytes, bytes_of(cpu));
    const ActivationPlan gpu(config, core::DType::kBF16, 3, core::DeviceType::kCuda);
    EXPECT_EQ(gpu.head.logits_stride, classifies ? 64 : 50304);
    EXPECT_EQ(gpu.head.logits.bytes, bytes_of(gpu));
    const auto regions =
        Transformer::memory_regions(config, core::DType::kBF16, 3, core::DeviceType::kCuda);
    const auto logits = std::find_if(regions.begin(), regions.end(), [](const MemoryRegion& r) {
      return r.name == std::string("logits");
    });
    ASSERT_NE(logits, regions.end());
    EXPECT_EQ(logits->bytes, gpu.bytes(Region::kLogits));
  }
}

TEST(Transformer, NothingIsAllocatedAfterTheFirstStep) {
  Rig rig(dropout_config());
  const test::TokenBatch data(rig.config, 4, 5, 1);
  rig.train(data.batch());
  const std::size_t after_one = rig.memory.peak();
  for (int i = 0; i < 3; ++i)
    rig.train(data.batch());
  EXPECT_EQ(rig.memory.peak(), after_one);
}

TEST(Transformer, SameBitsAtAnyNumberOfThreads) {
  for (ModelConfig config : various_configs()) {
    config.width = 32;  // enough work for several chunks
    config.ffn_width = 96;
    config.context = 48;
    config.vocab = 300;
    for (const core::DType compute : {core::DType::kF32, core::DType::kBF16, core::DType::kF16}) {
      const test::TokenBatch data(config, 4, 48, 2);
      Rig one(config, compute, 4, 1);
      Rig two(config, compute, 4, 2);
      Rig five(config, compute, 4, 5);
      const double loss = one.train(data.batch()).optimised;
      EXPECT_EQ(loss, two.train(data.batch()).optimised);
      EXPECT_EQ(loss, five.train(data.batch()).optimised);
      EXPECT_TRUE(one.gradients.bytes() == two.gradients.bytes());
      EXPECT_TRUE(one.gradients.bytes() == five.gradients.bytes());
    }
  }
}

// Dropout included; with several micro-batches, shorter ones among them, so that what one leaves
// behind would show in the next.
TEST(Transformer, RecomputingChangesNoBitOfTheGradients) {
  for (ModelConfig config : various_configs()) {
    config.layers = 3;
    if (config.dropout == 0.0) config.dropout = 0.2;
    for (const core::DType compute : {core::DType::kF32, core::DType::kBF16, core::DType::kF16}) {
      Rig kept(config, compute, 3);
      std::size_t bytes = kept.memory.regions()["activations"].current;
      for (const Recompute recompute : {Recompute::kAttention, Recompute::kBlock}) {
        SCOPED_TRACE(static_cast<int>(recompute));
        Rig again(config, compute, 3, 1, recompute);
        for (const std::int64_t length : {config.context, std::int64_t{3}, config.context}) {
          const test::TokenBatch data(config, length == 3 ? 2 : 3, length, 2);
          EXPECT_EQ(kept.train(data.batch()).optimised, again.train(data.batch()).optimised);
          EXPECT_TRUE(kept.gradients.bytes() == again.gradients.bytes());
          EXPECT_EQ(kept.model.evaluate(data.batch(), kept.parameters).cross_entropy,
                    again.model.evaluate(data.batch(), again.parameters).cross_entropy);
        }
        const std::size_t less = again.memory.regions()["activations"].current;
        EXPECT_LT(less, bytes);
        bytes = less;
        std::size_t planned = 0;
        for (const MemoryRegion& region :
             Transformer::memory_regions(config, compute, 3, core::DeviceType::kCpu, {recompute})) {
          if (region.name == "activations") planned = region.bytes;
        }
        EXPECT_EQ(planned, less);
      }
    }
  }
}

// Reads of parameters, by group.
class CountedParameters : public ParameterSource {
 public:
  CountedParameters(ParameterSource& source, const ParameterTable& table)
      : reads(static_cast<std::size_t>(table.groups())), source_(source), table_(table) {}
  core::ConstTensorView parameter(ParameterId id) override {
    ++reads[static_cast<std::size_t>(table_[id].group)];
    return source_.parameter(id);
  }
  std::vector<int> reads;

 private:
  ParameterSource& source_;
  const ParameterTable& table_;
};

// What is trained has the gradients it has when everything is, whatever is frozen.
TEST(Transformer, FrozenTensorsChangeNoOtherGradient) {
  const std::vector<std::string> patterns = {".bias", "_norm",       "attention", "mlp", "block.1.",
                                             "head.", "embeddings.", "weight",    "gate"};
  for (ModelConfig config : various_configs()) {
    config.layers = 3;
    Rig whole(config, core::DType::kF32, 2);
    const test::TokenBatch data(config, 2, config.context, 2);
    whole.train(data.batch());
    for (const Recompute recompute : {Recompute::kNone, Recompute::kAttention, Recompute::kBlock}) {
      for (const std::string& pattern : patterns) {
        ParameterTable table(config);
        for (ParameterId id = 0; id < table.size(); ++id) {
          if (table[id].name.find(pattern) != std::string::npos) table.freeze(id);
        }
        core::MemoryTracker memory;
        ops::OpContext context(1, memory);
        Transformer model(config, table, core::DType::kF32, 2, 17, context, memory, recompute);
        test::StoredGradients gradients(table, core::DType::kF32);
        model.forward(data.batch(), {}, whole.parameters);
        model.backward(whole.parameters, gradients);
        EXPECT_EQ(gradients.backwards(), 1);
        for (ParameterId id = 0; id < table.size(); ++id) {
          if (table[id].frozen) continue;
          const auto expected = whole.gradients.values<float>(id);
          const auto found = gradients.values<float>(id);
          EXPECT_TRUE(std::equal(expected.begin(), expected.end(), found.begin()))
              << table[id].name << " with " << pattern << " frozen";
        }
      }
    }
  }
}

TEST(Transformer, BackwardEndsAboveTheFrozenBlocks) {
  ModelConfig config = test::tiny_config(Family::kLlama);
  config.layers = 4;
  ParameterTable table(config);
  for (ParameterId id = 0; id < table.size(); ++id) {
    if (table[id].group <= 2) table.freeze(id);  // embeddings and two blocks
  }
  core::MemoryTracker memory;
  ops::OpContext context(1, memory);
  Transformer model(config, table, core::DType::kF32, 2, 17, context, memory);
  Rig whole(config, core::DType::kF32, 2);
  test::StoredGradients gradients(table, core::DType::kF32);
  const test::TokenBatch data(config, 2, config.context, 2);
  model.forward(data.batch(), {}, whole.parameters);
  CountedParameters counted(whole.parameters, table);
  model.backward(counted, gradients);
  EXPECT_EQ(gradients.backwards(), 1);
  EXPECT_EQ(counted.reads[0] + counted.reads[1] + counted.reads[2], 0);
  EXPECT_GT(counted.reads[3], 0);
  EXPECT_LT(memory.regions()["activations"].current, whole.memory.regions()["activations"].current);
}

// Of 12 blocks of a GPT, at least 70 % of what is kept.
TEST(Transformer, RecomputingBlocksSavesMostOfTheActivations) {
  ModelConfig config = test::tiny_config(Family::kGpt);
  config.layers = 12;
  config.width = 64;
  config.ffn_width = 256;
  const auto bytes = [&](Recompute recompute) {
    return static_cast<double>(
        ActivationPlan(config, core::DType::kF32, 4, core::DeviceType::kCpu, {recompute})
            .bytes(Region::kActivations));
  };
  const double all = bytes(Recompute::kNone);
  EXPECT_LT(bytes(Recompute::kBlock), 0.3 * all);
  EXPECT_LT(bytes(Recompute::kAttention), 0.75 * all);
}

TEST(Transformer, SplitBucketsHoldTheSameGradients) {
  for (const ModelConfig& config : various_configs()) {
    Rig rig(config);
    test::StoredGradients split(rig.table, core::DType::kF32, test::split_buckets(rig.table, 3));
    const test::TokenBatch data(config, 4, 5, 2);
    rig.train(data.batch());
    rig.model.forward(data.batch(), {}, rig.parameters);
    rig.model.backward(rig.parameters, split);
    for (ParameterId id = 0; id < rig.table.size(); ++id) {
      const auto whole = rig.gradients.values<float>(id);
      const auto parts = split.values<float>(id);
      for (std::size_t i = 0; i < whole.size(); ++i)
        EXPECT_NEAR(whole[i], parts[i], 1e-6) << rig.table[id].name << " " << i;
    }
  }
}

// A sequence has the same loss, with dropout active, wherever the batch is cut.
TEST(Transformer, ASequenceDoesNotDependOnItsMicroBatch) {
  for (const ModelConfig& config : various_configs()) {
    Rig rig(config);
    const test::TokenBatch data(config, 4, 5, 3);
    std::vector<double> alone;
    double sum = 0.0;
    for (std::int64_t s = 0; s < 4; ++s) {
      alone.push_back(rig.model.forward(data.slice(s, s + 1), {}, rig.parameters).optimised);
      sum += alone.back();
    }
    const auto pair = [&](std::int64_t begin) {
      return rig.model.forward(data.slice(begin, begin + 2), {}, rig.parameters).optimised;
    };
    EXPECT_NEAR(pair(0), alone[0] + alone[1], 1e-5);
    EXPECT_NEAR(pair(2), alone[2] + alone[3], 1e-5);
    EXPECT_NEAR(rig.model.forward(data.batch(), {}, rig.parameters).optimised, sum, 1e-5);
  }
}

TEST(Transformer, DropoutDependsOnStepSequenceAndSeed) {
  Rig rig(dropout_config());
  const test::TokenBatch data(rig.config, 2, 5, 3);
  const auto loss = [&](MicroBatch batch) {
    return rig.model.forward(batch, {}, rig.parameters).optimised;
  };
  const MicroBatch batch = data.batch();
  EXPECT_EQ(loss(batch), loss(batch));
  MicroBatch later = batch;
  later.step += 1;
  EXPECT_NE(loss(batch), loss(later));
  MicroBatch elsewhere = batch;
  elsewhere.first_sequence += 1;
  EXPECT_NE(loss(batch), loss(elsewhere));
  Transformer reseeded(rig.config, rig.table, core::DType::kF32, 4, 18, rig.context, rig.memory);
  EXPECT_NE(loss(batch), reseeded.forward(batch, {}, rig.parameters).optimised);
}

TEST(Transformer, EvaluateIsForwardWithoutDropout) {
  Rig with(dropout_config());
  ModelConfig plain = with.config;
  plain.dropout = 0.0;
  Rig without(plain);
  const test::TokenBatch data(plain, 2, 5, 4);
  const ops::LossSums evaluated = with.model.evaluate(data.batch(), with.parameters);
  const ops::LossSums trained = without.model.forward(data.batch(), {}, without.parameters);
  EXPECT_EQ(evaluated.cross_entropy, trained.cross_entropy);
  EXPECT_EQ(evaluated.optimised, trained.optimised);
  EXPECT_EQ(evaluated.counted, 8);  // of 10, two are ignored
  EXPECT_NE(with.model.forward(data.batch(), {}, with.parameters).optimised, evaluated.optimised);
}

TEST(Transformer, LogitsGiveTheLoss) {
  for (ModelConfig config : various_configs()) {
    config.dropout = 0.0;
    config.logit_softcap = 2.0;
    Rig rig(config, core::DType::kF64);
    const test::TokenBatch data(config, 2, 4, 4);
    MicroBatch batch = data.batch();
    const double expected = rig.model.evaluate(batch, rig.parameters).cross_entropy;
    const std::span<const std::int32_t> targets = batch.targets;
    batch.targets = {};
    const core::ConstTensorView logits = rig.model.logits(batch, rig.parameters);
    ASSERT_EQ(logits.rows(), static_cast<std::int64_t>(targets.size()));
    double sum = 0.0;
    for (std::int64_t n = 0; n < logits.rows(); ++n) {
      const std::int32_t target = targets[static_cast<std::size_t>(n)];
      if (target == ops::kIgnored) continue;
      double total = 0.0;
      for (std::int64_t v = 0; v < logits.cols(); ++v) {
        EXPECT_LE(std::abs(logits.row<double>(n)[v]), 2.0);
        total += std::exp(logits.row<double>(n)[v]);
      }
      sum += std::log(total) - logits.row<double>(n)[target];
    }
    EXPECT_NEAR(sum, expected, 1e-10);
  }
}

TEST(Transformer, ADecoderDoesNotSeeTheFutureAndAnEncoderDoes) {
  for (const Family family : {Family::kGpt, Family::kLlama, Family::kBert}) {
    Rig rig(test::tiny_config(family), core::DType::kF64);
    std::vector<std::int32_t> tokens = {1, 2, 3, 4, 5};
    MicroBatch batch;
    batch.sequences = 1;
    batch.length = 5;
    batch.inputs = tokens;
    const auto first_logit = [&] {
      return rig.model.logits(batch, rig.parameters).row<double>(3)[0];
    };
    const double before = first_logit();
    tokens[4] = 9;
    EXPECT_EQ(first_logit() == before, family != Family::kBert);
  }
}

TEST(Transformer, APoisonedBlockShowsInTheLoss) {
  for (const ModelConfig& config : various_configs()) {
    for (int block = 0; block < config.layers; ++block) {
      for (const core::DType compute : {core::DType::kF32, core::DType::kF16}) {
        Rig rig(config, compute);
        const test::TokenBatch data(config, 2, 5, 4);
        MicroBatch batch = data.batch();
        EXPECT_TRUE(std::isfinite(rig.train(batch).optimised));
        batch.poison_block = block;
        const ops::LossSums poisoned = rig.train(batch);
        EXPECT_FALSE(std::isfinite(poisoned.optimised));
        EXPECT_EQ(poisoned.nonfinite_layer, block);
        batch.poison_block = -1;
        EXPECT_TRUE(std::isfinite(rig.train(batch).optimised)) << "a NaN stayed behind";
      }
    }
  }
}

// The parameters of a group poison what it computes, and nothing before it: groups are embeddings,
// blocks, head.
TEST(Transformer, AWeightThatIsNotFiniteIsFoundInItsLayer) {
  for (const ModelConfig& config : various_configs()) {
    for (GroupIndex group = 0; group < ParameterTable(config).groups(); ++group) {
      Rig rig(config);
      const test::TokenBatch data(config, 2, 5, 4);
      const ParameterId id = rig.table.in_group(group).front();
      std::ranges::fill(rig.parameters.values<float>(id), std::numeric_limits<float>::infinity());
      const ops::LossSums sums = rig.train(data.batch());
      EXPECT_FALSE(std::isfinite(sums.optimised)) << rig.table[id].name;
      EXPECT_EQ(sums.nonfinite_layer, group - 1) << rig.table[id].name;
    }
  }
}

// In the last block of a decoder a NaN reaches the loss of its own position only.
TEST(Transformer, APoisonedBlockShowsThoughTheFirstTargetsAreIgnored) {
  Rig rig(test::tiny_config(Family::kGpt));
  const std::vector<std::int32_t> tokens = {1, 2, 3, 4, 5};
  const std::vector<std::int32_t> targets = {ops::kIgnored, ops::kIgnored, ops::kIgnored, 7,
                                             ops::kIgnored};
  MicroBatch batch;
  batch.sequences = 1;
  batch.length = 5;
  batch.inputs = tokens;
  batch.targets = targets;
  batch.poison_block = 1;
  EXPECT_FALSE(std::isfinite(rig.train(batch).optimised));
}

TEST(Transformer, AMicroBatchWithoutTargetsThatCountHasNoGradient) {
  Rig rig(test::tiny_config(Family::kLlama));
  const std::vector<std::int32_t> tokens = {1, 2, 3};
  const std::vector<std::int32_t> targets = {ops::kIgnored, ops::kIgnored, ops::kIgnored};
  MicroBatch batch;
  batch.sequences = 1;
  batch.length = 3;
  batch.inputs = tokens;
  batch.targets = targets;
  const ops::LossSums sums = rig.train(batch, {.label_smoothing = 0.1, .z_loss = 0.1});
  EXPECT_EQ(sums.optimised, 0.0);
  EXPECT_EQ(sums.counted, 0);
  for (ParameterId id = 0; id < rig.table.size(); ++id)
    EXPECT_THAT(rig.gradients.values<float>(id), ::testing::Each(0.0F)) << rig.table[id].name;
}

// The gradient of a tied table is the sum of the gradients of its two uses: those that an untied
// model with equal tables gives separately.
TEST(Transformer, ATiedGradientIsTheSumOfBothUses) {
  for (const Family family : {Family::kGpt, Family::kBert}) {
    ModelConfig config = test::tiny_config(family);
    Rig tied(config, core::DType::kF64);
    config.tie_embeddings = false;
    Rig untied(config, core::DType::kF64);
    const auto token = untied.table.find("embeddings.token.weight");
    const auto output = untied.table.find("head.weight");
    ASSERT_NE(output, kNoParameter);
    const std::span<double> table = untied.parameters.values<double>(token);
    std::copy(table.begin(), table.end(), untied.parameters.values<double>(output).begin());

    const test::TokenBatch data(config, 2, 5, 6);
    EXPECT_NEAR(tied.train(data.batch()).optimised, untied.train(data.batch()).optimised, 1e-12);
    std::vector<double> sum;
    for (std::size_t i = 0; i < table.size(); ++i) {
      sum.push_back(untied.gradients.values<double>(token)[i] +
                    untied.gradients.values<double>(output)[i]);
    }
    EXPECT_LT(test::relative_difference(sum, tied.gradients.values<double>(token)), 1e-14);
  }
}

TEST(Transformer, SixteenBitFollowsFp32) {
  for (const ModelConfig& config : various_configs()) {
    const test::TokenBatch data(config, 4, 5, 7);
    Rig full(config);
    const double loss = full.train(data.batch()).optimised;
    for (const core::DType compute : {core::DType::kBF16, core::DType::kF16}) {
      Rig half(config, compute);
      EXPECT_NEAR(half.train(data.batch()).optimised / loss, 1.0, 0.02);
      std::vector<double> a;
      std::vector<double> b;
      for (ParameterId id = 0; id < full.table.size(); ++id) {
        const auto n = static_cast<std::size_t>(full.table[id].elements());
        std::vector<float> values(n);
        core::convert(compute, half.gradients.whole(id).raw(), core::DType::kF32, values.data(), n);
        a.insert(a.end(), values.begin(), values.end());
        const auto expected = full.gradients.values<float>(id);
        b.insert(b.end(), expected.begin(), expected.end());
      }
      EXPECT_LT(test::relative_difference(a, b), compute == core::DType::kBF16 ? 0.03 : 0.004);
    }
  }
}

TEST(Transformer, ATokenOutsideTheVocabularyIsADataError) {
  Rig rig(test::tiny_config(Family::kGpt));
  std::vector<std::int32_t> tokens = {1, 2, 11};
  const std::vector<std::int32_t> targets = {1, 2, 3};
  MicroBatch batch;
  batch.sequences = 1;
  batch.length = 3;
  batch.inputs = tokens;
  batch.targets = targets;
  try {
    rig.model.forward(batch, {}, rig.parameters);
    FAIL() << "token 11 of 11 was accepted";
  } catch (const core::Error& error) {
    EXPECT_EQ(error.kind(), core::ErrorKind::kData);
  }
}

TEST(Transformer, BackwardRunsOncePerForward) {
  Rig rig(test::tiny_config(Family::kGpt));
  const test::TokenBatch data(rig.config, 2, 5, 4);
  EXPECT_THROW(rig.model.backward(rig.parameters, rig.gradients), core::Error);
  rig.train(data.batch());
  EXPECT_THROW(rig.model.backward(rig.parameters, rig.gradients), core::Error);
  rig.model.forward(data.batch(), {}, rig.parameters);
  rig.model.evaluate(data.batch(), rig.parameters);
  EXPECT_THROW(rig.model.backward(rig.parameters, rig.gradients), core::Error);
}

TEST(Transformer, SinusoidalTableIsThatOfThePaper) {
  std::vector<double> values(3 * 4);
  fill_sinusoidal({values.data(), core::DType::kF64, {3, 4}});
  EXPECT_DOUBLE_EQ(values[0], 0.0);
  EXPECT_DOUBLE_EQ(values[1], 1.0);
  EXPECT_DOUBLE_EQ(values[8], std::sin(2.0));
  EXPECT_DOUBLE_EQ(values[9], std::cos(2.0));
  EXPECT_DOUBLE_EQ(values[10], std::sin(0.02));
  EXPECT_DOUBLE_EQ(values[11], std::cos(0.02));
}

}  // namespace
}  // namespace lockstep::models
