// The `layers` and `histogram` lines of real runs: what they say, and that it neither changes the
// training nor depends on how the work was dealt out.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "tests/support/training_world.h"

namespace lockstep::testing {
namespace {

using nlohmann::ordered_json;

std::vector<ordered_json> lines_of(const TrainingResult& result, const std::string& event) {
  std::vector<ordered_json> found;
  for (const ordered_json& line : result.lines) {
    if (line["event"] == event) found.push_back(line);
  }
  return found;
}

std::vector<std::string> texts_of(const TrainingResult& result) {
  std::vector<std::string> texts;
  for (const char* event : {"layers", "histogram"}) {
    for (const ordered_json& line : lines_of(result, event))
      texts.push_back(line.dump());
  }
  return texts;
}

const std::vector<std::string> kMeasured = {"metrics.per_layer_every=1",
                                            "metrics.histograms_every=2"};

struct Variant {
  const char* name;
  std::vector<std::string> overrides;
};

class LayerLinesTest : public ::testing::TestWithParam<Variant> {};

TEST_P(LayerLinesTest, SameAtAnyNumberOfRanksAndStageAndNothingElseChanges) {
  TrainingWorld world(tiny_config());
  TrainingRun run;
  run.overrides = {"run.reproducible=ranks", "metrics.per_layer_every=0"};
  run.overrides.insert(run.overrides.end(), GetParam().overrides.begin(),
                       GetParam().overrides.end());
  const TrainingResult plain = world.train(run);
  ASSERT_FALSE(plain.error) << plain.message;
  EXPECT_TRUE(texts_of(plain).empty());
  run.overrides.insert(run.overrides.end(), kMeasured.begin(), kMeasured.end());
  const TrainingResult alone = world.train(run);
  ASSERT_FALSE(alone.error) << alone.message;
  EXPECT_EQ(alone.state, plain.state);
  EXPECT_EQ(alone.ledger, plain.ledger);
  EXPECT_EQ(lines_of(alone, "layers").size(), 4U);
  EXPECT_EQ(lines_of(alone, "histogram").size(), 2U);
  for (const int ranks : {2, 3}) {
    for (const int stage : {0, 1, 2}) {
      SCOPED_TRACE(fmt::format("{} ranks, stage {}", ranks, stage));
      TrainingRun other = run;
      other.ranks = ranks;
      other.threads = 2;
      other.overrides.push_back(fmt::format("parallel.zero_stage={}", stage));
      const TrainingResult found = world.train(other);
      ASSERT_FALSE(found.error) << found.message;
      EXPECT_EQ(found.state, plain.state);
      EXPECT_EQ(texts_of(found), texts_of(alone));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Runs, LayerLinesTest,
    ::testing::Values(Variant{"fp32", {"clip.threshold=0.05"}},
                      Variant{"fp16", {"precision.compute=fp16", "model.family=llama"}},
                      Variant{"muon", {"optimizer.name=muon", "precision.compute=bf16"}},
                      Variant{"recompute", {"memory.recompute=block", "ema.decay=0.9"}}),
    [](const auto& each) { return std::string(each.param.name); });

// With plain SGD the change of a weight is the gradient times the learning rate, so that the
// weights before and after a step give what the lines must say.
TEST(LayerLines, AgreeWithTheWeightsBeforeAndAfterAStep) {
  TrainingWorld world(tiny_config());
  constexpr double kRate = 0.25;
  struct Tensor {
    std::string name;
    std::string group;
    std::vector<float> before;
    std::vector<float> after;
  };
  std::vector<Tensor> tensors;
  TrainingRun run;
  run.ranks = 2;
  run.overrides = {"optimizer.name=sgd",       "optimizer.momentum=0",
                   "optimizer.weight_decay=0", fmt::format("optimizer.learning_rate={}", kRate),
                   "schedule.name=constant",   "schedule.warmup_steps=0",
                   "clip.mode=none",           "train.steps=1"};
  run.overrides.insert(run.overrides.end(), kMeasured.begin(), kMeasured.end());
  run.overrides.emplace_back("metrics.histograms_every=1");
  run.body = [&](Rank& rank) {
    std::vector<Tensor> seen;
    for (models::ParameterId id = 0; id < rank.trainer.table().size(); ++id) {
      const models::ParameterSpec& spec = rank.trainer.table()[id];
      seen.push_back({spec.name,
                      rank.trainer.table().group_name(spec.group),
                      rank.collect(id, runtime::kMasterState),
                      {}});
    }
    rank.step_to_end();
    for (models::ParameterId id = 0; id < rank.trainer.table().size(); ++id)
      seen[static_cast<std::size_t>(id)].after = rank.collect(id, runtime::kMasterState);
    if (rank.number() == 0) tensors = std::move(seen);
  };
  const TrainingResult result = world.train(run);
  ASSERT_FALSE(result.error) << result.message;
  const auto layers = lines_of(result, "layers");
  const auto histograms = lines_of(result, "histogram");
  ASSERT_EQ(layers.size(), 1U);
  ASSERT_EQ(histograms.size(), 1U);
  ASSERT_EQ(histograms[0]["tensors"].size(), tensors.size());

  double all = 0.0;
  for (const ordered_json& layer : layers[0]["layers"]) {
    SCOPED_TRACE(layer["name"].dump());
    double gradient = 0.0;
    double weight = 0.0;
    double greatest = 0.0;
    for (const Tensor& tensor : tensors) {
      if (tensor.group != layer["name"]) continue;
      for (std::size_t i = 0; i < tensor.before.size(); ++i) {
        const double g = (static_cast<double>(tensor.before[i]) - tensor.after[i]) / kRate;
        gradient += g * g;
        weight += static_cast<double>(tensor.before[i]) * tensor.before[i];
        greatest = std::max(greatest, std::abs(g));
      }
    }
    all += gradient;
    EXPECT_NEAR(layer["grad_norm"].get<double>(), std::sqrt(gradient), 1e-4 * std::sqrt(gradient));
    EXPECT_NEAR(layer["grad_max"].get<double>(), greatest, 1e-4 * greatest);
    EXPECT_NEAR(layer["weight_norm"].get<double>(), std::sqrt(weight), 1e-12 * std::sqrt(weight));
    EXPECT_NEAR(layer["update_ratio"].get<double>(), kRate * std::sqrt(gradient / weight),
                1e-4 * kRate * std::sqrt(gradient / weight));
    EXPECT_GT(layer["activation_rms"].get<double>(), 0.0);
    EXPECT_GE(layer["activation_max"].get<double>(), layer["activation_rms"].get<double>());
    const bool block = layer["name"].get<std::string>().starts_with("block.");
    EXPECT_EQ(layer["attention_logit_max"].is_number(), block);
    EXPECT_EQ(layer["attention_entropy"].is_number(), block);
    EXPECT_EQ(layer["dead_share"].is_number(), block);
    if (!block) continue;
    EXPECT_GT(layer["attention_entropy"].get<double>(), 0.9);  // hardly trained: nearly uniform
    EXPECT_LE(layer["attention_entropy"].get<double>(), 1.0 + 1e-6);
  }
  const double norm = lines_of(result, "step")[0]["grad_norm"].get<double>();
  EXPECT_NEAR(std::sqrt(all), norm, 1e-4 * norm);

  for (std::size_t t = 0; t < tensors.size(); ++t) {
    const ordered_json& h = histograms[0]["tensors"][t];
    EXPECT_EQ(h["name"], tensors[t].name);
    std::int64_t counted = h["zeros"].get<std::int64_t>();
    for (const char* sign : {"negative", "positive"}) {
      for (const ordered_json& bin : h[sign])
        counted += bin.get<std::int64_t>();
    }
    EXPECT_EQ(h["elements"].get<std::size_t>(), tensors[t].before.size());
    EXPECT_EQ(counted, h["elements"].get<std::int64_t>());
  }
}

TEST(LayerLines, ClippedStepsAndStepsNotApplied) {
  TrainingWorld world(tiny_config());
  TrainingRun run;
  run.overrides = {"train.steps=6", "clip.threshold=1e-4", "metrics.per_layer_every=3",
                   "fault=[{kind: overflow, step: 3}]"};
  const TrainingResult result = world.train(run);
  ASSERT_FALSE(result.error) << result.message;
  const auto lines = lines_of(result, "layers");
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(lines[0]["applied_steps"], 2);
  EXPECT_EQ(lines[0]["clipped_steps"], 2);
  EXPECT_EQ(lines[1]["applied_steps"], 3);
  EXPECT_TRUE(lines[0]["advised_loss_scale"].is_null());
  const auto find = [&](const ordered_json& line, const std::string& name) {
    for (const ordered_json& layer : line["layers"]) {
      if (layer["name"] == name) return layer;
    }
    return ordered_json();
  };
  EXPECT_TRUE(find(lines[0], "block.0")["grad_norm"].is_null());  // where the inf was
  EXPECT_TRUE(find(lines[0], "block.1")["grad_norm"].is_number());
  EXPECT_TRUE(find(lines[0], "block.1")["update_ratio"].is_null());
  EXPECT_TRUE(find(lines[1], "block.0")["update_ratio"].is_number());
}

}  // namespace
}  // namespace lockstep::testing
