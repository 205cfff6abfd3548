// optimizer.groups and ema in real training, against a plain loop in fp64 on one rank that knows
// nothing of buckets, shards and update rules.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "models/transformer.h"
#include "runtime/checkpoint/checkpoint_weights.h"
#include "runtime/data/open_dataset.h"
#include "tests/support/model_fixture.h"
#include "tests/support/training_world.h"

namespace lockstep::testing {
namespace {

using runtime::kAverageState;
using runtime::kMasterState;
using ::testing::HasSubstr;

constexpr double kLearningRate = 2e-3;
constexpr double kDecay = 0.1;       // of weights
constexpr double kThreshold = 0.05;  // of the norm; always exceeded
constexpr double kEma = 0.8;

// Four kinds of tensor, by name: the loop below says by itself what the groups ask for.
const char* const kGroups =
    "optimizer.groups=[{match: 'embeddings.position.*', freeze: true}, "
    "{match: 'block.0.mlp.*', freeze: true}, "
    "{match: 'block.?.attention.*', learning_rate_scale: 0.25, weight_decay: 0.5}, "
    "{match: '*.bias', learning_rate_scale: 2}, {match: 'head.*', weight_decay: 0.3}]";

struct Treatment {
  bool frozen = false;
  double scale = 1.0;
  double decay = 0.0;
};

Treatment treatment_of(const std::string& name, bool decays) {
  const auto has = [&](const char* part) { return name.find(part) != std::string::npos; };
  if (has("embeddings.position") || has("block.0.mlp.")) return {true, 0.0, 0.0};
  if (has(".attention.")) return {false, 0.25, 0.5};
  if (name.ends_with(".bias")) return {false, 2.0, decays ? kDecay : 0.0};
  if (name.starts_with("head.")) return {false, 1.0, 0.3};
  return {false, 1.0, decays ? kDecay : 0.0};
}

// AdamW with clipping by the global norm, and the average of the weights.
class PlainTraining {
 public:
  explicit PlainTraining(const runtime::Config& config)
      : config_(config),
        data_(runtime::open_training_data(config)),
        table_(config.model),
        context_(1, memory_),
        parameters_(table_, core::DType::kF32, config.run.seed),
        gradients_(table_, core::DType::kF32),
        model_(config.model, table_, core::DType::kF32, config.batch.micro, config.run.seed,
               context_, memory_) {
    for (models::ParameterId id = 0; id < table_.size(); ++id) {
      const auto values = parameters_.values<float>(id);
      weights.emplace_back(values.begin(), values.end());
      first_.emplace_back(values.size());
      second_.emplace_back(values.size());
    }
    averages = weights;
  }

  void step(std::int64_t number, bool applied) {
    if (!applied) return;
    const std::vector<std::vector<double>> mean = mean_gradient(number);
    double squares = 0.0;
    for (models::ParameterId id = 0; id < table_.size(); ++id) {
      if (treatment(id).frozen) continue;
      for (const double g : mean[index(id)])
        squares += g * g;
    }
    norm = std::sqrt(squares);
    const double coefficient = std::min(1.0, kThreshold / (norm + 1e-6));
    ++applied_;
    for (models::ParameterId id = 0; id < table_.size(); ++id)
      update(id, mean[index(id)], coefficient);
    average();
  }

  std::vector<std::vector<double>> weights;
  std::vector<std::vector<double>> averages;
  double norm = 0.0;

 private:
  static std::size_t index(models::ParameterId id) { return static_cast<std::size_t>(id); }
  Treatment treatment(models::ParameterId id) const {
    return treatment_of(table_[id].name, table_[id].decays);
  }

  std::vector<std::vector<double>> mean_gradient(std::int64_t number) {
    const std::int64_t micro = config_.batch.micro;
    std::vector<std::int32_t> inputs(static_cast<std::size_t>(micro * config_.model.context));
    std::vector<std::int32_t> targets(inputs.size());
    std::vector<std::vector<double>> sums = first_;
    for (std::vector<double>& sum : sums)
      std::fill(sum.begin(), sum.end(), 0.0);
    for (std::int64_t first = 0; first < config_.batch.global; first += micro) {
      data_->fill((number - 1) * config_.batch.global + first, micro, inputs, targets);
      models::MicroBatch batch;
      batch.sequences = micro;
      batch.length = config_.model.context;
      batch.step = number - 1;
      batch.first_sequence = first;
      batch.inputs = inputs;
      batch.targets = targets;
      model_.forward(batch, {}, parameters_);
      model_.backward(parameters_, gradients_);
      for (models::ParameterId id = 0; id < table_.size(); ++id) {
        const auto values = gradients_.values<float>(id);
        for (std::size_t i = 0; i < values.size(); ++i)
          sums[index(id)][i] +=
              values[i] / static_cast<double>(config_.batch.global * config_.model.context);
      }
    }
    return sums;
  }

  void update(models::ParameterId id, const std::vector<double>& gradient, double coefficient) {
    const Treatment how = treatment(id);
    if (how.frozen) return;
    const double b1 = config_.optimizer.betas[0];
    const double b2 = config_.optimizer.betas[1];
    const auto t = static_cast<double>(applied_);
    const double rate = kLearningRate * how.scale;
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      const double g = gradient[i] * coefficient;
      double& w = weights[index(id)][i];
      double& m = first_[index(id)][i];
      double& v = second_[index(id)][i];
      m = b1 * m + (1.0 - b1) * g;
      v = b2 * v + (1.0 - b2) * g * g;
      w -= rate * how.decay * w;
      w -= rate * (m / (1.0 - std::pow(b1, t))) /
           (std::sqrt(v / (1.0 - std::pow(b2, t))) + config_.optimizer.eps);
      parameters_.values<float>(id)[i] = static_cast<float>(w);
    }
  }

  // Every second applied step; update n with decay min(kEma, (1 + n) / (10 + n)).
  void average() {
    if (applied_ % 2 != 0) return;
    const auto n = static_cast<double>(applied_ / 2);
    const double decay = std::min(kEma, (1.0 + n) / (10.0 + n));
    for (std::size_t p = 0; p < weights.size(); ++p) {
      for (std::size_t i = 0; i < weights[p].size(); ++i)
        averages[p][i] = decay * averages[p][i] + (1.0 - decay) * weights[p][i];
    }
  }

  const runtime::Config config_;
  std::unique_ptr<runtime::TokenDataset> data_;
  models::ParameterTable table_;
  core::MemoryTracker memory_;
  ops::OpContext context_;
  test::StoredParameters parameters_;
  test::StoredGradients gradients_;
  models::Transformer model_;
  std::vector<std::vector<double>> first_;
  std::vector<std::vector<double>> second_;
  std::int64_t applied_ = 0;
};

TrainingRun run_with_everything() {
  TrainingRun run;
  run.overrides = {kGroups,
                   "train.steps=9",
                   "schedule.name=constant",
                   "schedule.warmup_steps=0",
                   fmt::format("optimizer.learning_rate={}", kLearningRate),
                   fmt::format("optimizer.weight_decay={}", kDecay),
                   fmt::format("clip.threshold={}", kThreshold),
                   fmt::format("ema.decay={}", kEma),
                   "ema.every=2",
                   "ema.warmup=true",
                   "model.norm_eps=1e-5",
                   "fault=[{kind: overflow, step: 4, rank: 0, layer: 1}]"};
  return run;
}

// Collective.
void expect_state(const Rank& rank, const PlainTraining& plain) {
  for (models::ParameterId id = 0; id < rank.trainer.table().size(); ++id) {
    const auto p = static_cast<std::size_t>(id);
    const std::vector<float> weights = rank.collect(id, kMasterState);
    const std::vector<float> averages = rank.collect(id, kAverageState);
    for (std::size_t i = 0; i < weights.size(); ++i) {
      ASSERT_NEAR(weights[i], plain.weights[p][i], 2e-5) << rank.trainer.table()[id].name;
      ASSERT_NEAR(averages[i], plain.averages[p][i], 2e-5) << rank.trainer.table()[id].name;
    }
  }
}

TEST(GroupsAndAverage, FollowAPlainLoopWithASkippedStepAndAResume) {
  TrainingWorld world(tiny_config());
  PlainTraining plain(world.config_of(run_with_everything()));
  std::vector<double> norms;
  for (std::int64_t step = 1; step <= 5; ++step) {
    plain.step(step, step != 4);
    norms.push_back(plain.norm);
  }
  PlainTraining to_the_end = PlainTraining(world.config_of(run_with_everything()));
  for (std::int64_t step = 1; step <= 9; ++step)
    to_the_end.step(step, step != 4);
  for (const int ranks : {1, 3}) {
    for (const int stage : {0, 2}) {
      SCOPED_TRACE(fmt::format("{} ranks, stage {}", ranks, stage));
      TrainingRun run = run_with_everything();
      run.ranks = ranks;
      run.overrides.push_back(fmt::format("parallel.zero_stage={}", stage));
      run.body = [&](Rank& rank) {
        for (std::size_t step = 1; step <= 5; ++step) {
          const runtime::StepDecision decision = rank.trainer.step();
          ASSERT_EQ(decision.applied(), step != 4);
          if (decision.applied()) {
            ASSERT_NEAR(decision.grad_norm / norms[step - 1], 1.0, 1e-5);
          }
        }
        expect_state(rank, plain);
        rank.trainer.save_checkpoint();
      };
      const TrainingResult half = world.train(run);
      ASSERT_FALSE(half.error) << half.message;
      // Other ranks and another stage go on.
      TrainingRun rest = run_with_everything();
      rest.ranks = ranks == 1 ? 2 : 4;
      rest.overrides.push_back(fmt::format("parallel.zero_stage={}", stage == 0 ? 2 : 1));
      rest.resume = half.output + "/checkpoints/step-00000005";
      rest.body = [&](Rank& rank) {
        expect_state(rank, plain);
        rank.step_to_end();
        expect_state(rank, to_the_end);
      };
      const TrainingResult found = world.train(rest);
      ASSERT_FALSE(found.error) << found.message;
    }
  }
}

// Bit for bit, in every precision, with all remedies of memory at once; and over a resume.
TEST(GroupsAndAverage, SameBitsAtEveryNumberOfRanks) {
  TrainingWorld world(tiny_config());
  for (const char* compute : {"fp32", "bf16", "fp16"}) {
    TrainingRun run = run_with_everything();
    run.overrides.insert(run.overrides.end(),
                         {"batch.global=24", "run.reproducible=ranks", "model.dropout=0.1",
                          "train.steps=6", "parallel.verify_every=2", "memory.recompute=block",
                          "parallel.zero_stage=0", fmt::format("precision.compute={}", compute)});
    const TrainingResult alone = world.train(run);
    ASSERT_FALSE(alone.error) << alone.message;
    ASSERT_NE(alone.state.average, alone.state.masters);
    for (const int ranks : {1, 2, 3, 4, 8}) {
      for (const int stage : {0, 2}) {
        SCOPED_TRACE(fmt::format("{}, {} ranks, stage {}", compute, ranks, stage));
        TrainingRun other = run;
        other.ranks = ranks;
        other.overrides.push_back(fmt::format("parallel.zero_stage={}", stage));
        const TrainingResult found = world.train(other);
        EXPECT_EQ(found.state, alone.state);
        EXPECT_EQ(found.step_lines(), alone.step_lines());
        EXPECT_EQ(found.ledger, alone.ledger);
      }
    }
    TrainingRun half = run;
    half.ranks = 3;
    half.body = [](Rank& rank) {
      for (int step = 1; step <= 5; ++step)
        rank.trainer.step();
      rank.trainer.save_checkpoint();
    };
    TrainingRun rest = run;
    rest.ranks = 4;
    rest.overrides.push_back("parallel.zero_stage=2");
    rest.resume = world.train(half).output + "/checkpoints/step-00000005";
    EXPECT_EQ(world.train(rest).state, alone.state);
  }
}

// Both losses of a validation, the weights afterwards as before, and the averages in a checkpoint.
TEST(GroupsAndAverage, ValidationTellsTheLossOfTheAverages) {
  TrainingWorld world(tiny_config());
  for (const char* compute : {"fp32", "bf16"}) {
    for (const int ranks : {1, 3}) {
      SCOPED_TRACE(fmt::format("{}, {} ranks", compute, ranks));
      TrainingRun run = run_with_everything();
      run.ranks = ranks;
      run.overrides.insert(run.overrides.end(),
                           {"data.validation=" + (world.directory() / "tokens.bin").string(),
                            "train.validate_every=9", "train.validate_batches=2",
                            fmt::format("precision.compute={}", compute)});
      const StateHashes without = world
                                      .train([&] {
                                        TrainingRun plain = run;
                                        plain.overrides.push_back("train.validate_every=0");
                                        return plain;
                                      }())
                                      .state;
      run.body = [](Rank& rank) { rank.trainer.run(); };
      const TrainingResult result = world.train(run);
      ASSERT_FALSE(result.error) << result.message;
      EXPECT_EQ(result.state, without);
      nlohmann::ordered_json line;
      for (const auto& each : result.lines)
        if (each["event"] == "validation") line = each;
      ASSERT_TRUE(line.contains("ema_loss"));

      const runtime::CheckpointManifest manifest =
          runtime::read_manifest(result.output + "/checkpoints/step-00000009");
      const runtime::Config config = world.config_of(run);
      const models::ParameterTable table(config.model);
      const core::DType type = config.precision.compute;
      for (const auto& [choice, name] : {std::pair{runtime::WeightsChoice::kModel, "loss"},
                                         {runtime::WeightsChoice::kEma, "ema_loss"}}) {
        test::StoredParameters parameters(table, type, 1);
        runtime::load_weights(manifest, table, config.model, choice,
                              [&](models::ParameterId id, std::span<const float> values) {
                                core::convert(core::DType::kF32, values.data(), type,
                                              parameters.view(id).raw(), values.size());
                              });
        core::MemoryTracker memory;
        ops::OpContext context(1, memory);
        models::Transformer model(config.model, table, type, 1, 7, context, memory);
        const auto data = runtime::open_validation_data(config);
        std::vector<std::int32_t> inputs(static_cast<std::size_t>(config.model.context));
        std::vector<std::int32_t> targets(inputs.size());
        double sum = 0.0;
        for (std::int64_t j = 0; j < 2 * config.batch.global; ++j) {
          data->fill(j, 1, inputs, targets);
          models::MicroBatch batch;
          batch.sequences = 1;
          batch.length = config.model.context;
          batch.inputs = inputs;
          batch.targets = targets;
          sum += model.evaluate(batch, parameters).cross_entropy;
        }
        const auto tokens = static_cast<double>(2 * config.batch.global * config.model.context);
        EXPECT_NEAR(line[name].get<double>(), sum / tokens, 1e-9) << name;
      }
      EXPECT_NE(line["loss"], line["ema_loss"]);
    }
  }
}

TEST(GroupsAndAverage, ACheckpointWithoutAveragesStartsThemFromItsWeights) {
  TrainingWorld world(tiny_config());
  TrainingRun run;
  run.overrides = {"train.steps=2", "schedule.warmup_steps=1"};
  run.body = [](Rank& rank) { rank.trainer.run(); };
  const TrainingResult first = world.train(run);
  const std::string checkpoint = first.output + "/checkpoints/step-00000002";
  const runtime::CheckpointManifest manifest = runtime::read_manifest(checkpoint);
  const runtime::Config config = world.config_of(run);
  const models::ParameterTable table(config.model);
  try {
    runtime::load_weights(manifest, table, config.model, runtime::WeightsChoice::kEma,
                          [](models::ParameterId, std::span<const float>) {});
    FAIL() << "found averages";
  } catch (const core::Error& error) {
    EXPECT_EQ(error.kind(), core::ErrorKind::kConfig);
    EXPECT_THAT(error.what(), HasSubstr("--weights model"));
  }
  TrainingRun more = run;
  more.ranks = 2;
  more.resume = checkpoint;
  more.overrides.push_back("ema.decay=0.9");
  more.overrides.push_back("train.steps=3");
  more.body = [](Rank& rank) {
    for (models::ParameterId id = 0; id < rank.trainer.table().size(); ++id)
      EXPECT_EQ(rank.collect(id, kAverageState), rank.collect(id, kMasterState));
  };
  EXPECT_FALSE(world.train(more).error);
}

// Frozen is what no step changes, also where the compute type is coarser than the file.
TEST(GroupsAndAverage, FrozenTensorsNeverChangeAndTakeNoState) {
  TrainingWorld world(tiny_config());
  for (const char* compute : {"fp32", "fp16"}) {
    TrainingRun run;
    run.ranks = 3;
    run.overrides = {
        "optimizer.groups=[{match: 'embeddings.*', freeze: true}, "
        "{match: 'block.*', freeze: true}]",
        "model.tie_embeddings=false", fmt::format("precision.compute={}", compute)};
    std::size_t optimizer = 0;
    run.body = [&](Rank& rank) {
      std::vector<std::vector<float>> before;
      const models::ParameterTable& table = rank.trainer.table();
      for (models::ParameterId id = 0; id < table.size(); ++id)
        before.push_back(rank.collect(id, kMasterState));
      rank.step_to_end();
      for (models::ParameterId id = 0; id < table.size(); ++id) {
        const bool same = rank.collect(id, kMasterState) == before[static_cast<std::size_t>(id)];
        EXPECT_EQ(same, table[id].frozen) << table[id].name;
      }
      if (rank.number() == 0) optimizer = rank.memory.regions()["optimizer"].peak;
    };
    EXPECT_FALSE(world.train(run).error);
    // head.norm and head.weight, 64 + 32 * 32 elements, padded to 3 * 64 each rank 1/3.
    const std::size_t per_element = std::string(compute) == "fp32" ? 8 : 12;
    EXPECT_EQ(optimizer, per_element * 384);
  }
}

}  // namespace
}  // namespace lockstep::testing
