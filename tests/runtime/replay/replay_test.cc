// A step that went wrong, computed again from its bundle: the same bits, the right places named.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <ostream>

#include "runtime/replay/replay_step.h"
#include "tests/support/training_world.h"

namespace lockstep::runtime {
namespace {

namespace fs = std::filesystem;
using lockstep::testing::read_file;
using lockstep::testing::TrainingResult;
using lockstep::testing::TrainingRun;
using lockstep::testing::TrainingWorld;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr const char* kOverflowAt3 = "fault=[{kind: overflow, step: 3, rank: 0, layer: 1}]";

// A run that goes on after whatever happens to a step.
TrainingRun forgiving_run(int ranks, std::vector<std::string> overrides) {
  TrainingRun run;
  run.ranks = ranks;
  run.overrides = {"health.on_divergence=skip"};
  run.overrides.insert(run.overrides.end(), overrides.begin(), overrides.end());
  return run;
}

std::string bundle_of(const TrainingResult& result, int step) {
  return fmt::format("{}/replay/step-{:08}", result.output, step);
}

std::vector<std::string> bundles(const TrainingResult& result) {
  std::vector<std::string> names;
  if (!fs::exists(result.output + "/replay")) return names;
  for (const auto& entry : fs::directory_iterator(result.output + "/replay"))
    names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

ReplayResult replay(const std::string& bundle, int threads = 1) {
  core::MemoryTracker memory;
  core::Logger log(0, 1, core::LogLevel::kError);
  return replay_step(read_replay_bundle(bundle), threads, memory, log);
}

std::vector<std::string> names_of(const std::vector<ReplayExtent>& layers) {
  std::vector<std::string> names;
  for (const ReplayExtent& layer : layers)
    names.push_back(layer.layer);
  return names;
}

std::vector<std::string> nonfinite_layers(const std::vector<ReplayExtent>& layers) {
  std::vector<std::string> names;
  for (const ReplayExtent& layer : layers) {
    if (!layer.extent.finite()) names.push_back(layer.layer);
  }
  return names;
}

const ReplayExtent& named(const std::vector<ReplayExtent>& layers, const std::string& name) {
  for (const ReplayExtent& layer : layers) {
    if (layer.layer == name) return layer;
  }
  throw std::runtime_error("no layer " + name);
}

void expect_same_bits(const ReplayResult& result) {
  for (const ReplayComparison& number : result.numbers)
    EXPECT_TRUE(number.same()) << number.name << ": " << number.recorded << " " << number.replayed;
  for (const ReplayFinding& finding : result.findings)
    EXPECT_EQ(finding.recorded, finding.replayed) << finding.name;
  EXPECT_TRUE(result.same_build);
  EXPECT_TRUE(result.reproduced());
}

struct Case {
  std::string name;
  int ranks = 1;
  std::vector<std::string> overrides;

  friend void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }
};

std::string name_of_case(const ::testing::TestParamInfo<Case>& info) {
  return info.param.name;
}

class ReplayTest : public ::testing::TestWithParam<Case> {
 protected:
  TrainingResult train(std::vector<std::string> more) {
    more.insert(more.end(), GetParam().overrides.begin(), GetParam().overrides.end());
    return world_.train(forgiving_run(GetParam().ranks, more));
  }
  int last_rank() const { return GetParam().ranks - 1; }

  TrainingWorld world_{lockstep::testing::tiny_config()};
};

// Every number of the step again, bit for bit, in one process, though the data file is gone.
TEST_P(ReplayTest, AnOverflow) {
  const TrainingResult run =
      train({"precision.compute=fp16", fmt::format("fault=[{{kind: overflow, step: 3, rank: {}, "
                                                   "layer: 1}}]",
                                                   last_rank())});
  fs::remove(world_.directory() / "tokens.bin");
  const ReplayResult result = replay(bundle_of(run, 3));
  world_.write_tokens(11);
  expect_same_bits(result);
  EXPECT_THAT(nonfinite_layers(result.activations), ElementsAre());
  EXPECT_THAT(nonfinite_layers(result.gradients), ElementsAre("block.1"));
  const ReplayPlace& place = named(result.gradients, "block.1").place;
  EXPECT_EQ(place.rank, last_rank());
  EXPECT_EQ(place.micro_batch, 11);
  EXPECT_THAT(place.tensor, StartsWith("block.1.attention.q"));  // qkv.weight, or Llama's q.weight
  EXPECT_EQ(place.element, 0);
}

TEST_P(ReplayTest, ANanInTheForwardOfABlock) {
  const TrainingResult run =
      train({fmt::format("fault=[{{kind: nan, step: 3, rank: {}, layer: 0}}]", last_rank())});
  const ReplayResult result = replay(bundle_of(run, 3), 2);
  expect_same_bits(result);
  EXPECT_THAT(names_of(result.activations),
              ElementsAre("embeddings", "block.0", "block.1", "head"));
  EXPECT_THAT(nonfinite_layers(result.activations), ElementsAre("block.0", "block.1", "head"));
  const ReplayPlace& place = named(result.activations, "block.0").place;
  EXPECT_EQ(place.tensor, "output");
  EXPECT_EQ(place.rank, last_rank());
  EXPECT_EQ(place.sequence, 11);
  EXPECT_EQ(place.position, 0);
  EXPECT_EQ(place.element, 0);
  std::vector<std::string> backward = names_of(result.gradients);
  std::erase_if(backward, [](const std::string& name) { return name.starts_with("head"); });
  EXPECT_THAT(backward, ElementsAre("block.1", "block.0", "embeddings"));
}

const Case kCases[] = {
    {"Gpt1", 1, {}},
    {"Gpt2", 2, {}},
    {"Gpt4", 4, {}},
    {"Gpt4Ranks", 4, {"run.reproducible=ranks"}},
    {"Gpt3Stage0", 3, {"parallel.zero_stage=0"}},
    {"Gpt2Stage1Bf16Wire", 2, {"parallel.zero_stage=1", "parallel.reduce_type=bf16"}},
    {"Gpt4Fp32Wire", 4, {"parallel.reduce_type=fp32"}},
    {"Gpt2Dropout", 2, {"model.dropout=0.1", "loss.label_smoothing=0.1"}},
    {"GptPost4", 4, {"model.norm_position=post"}},
    {"Llama1", 1, {"model.family=llama"}},
    {"Llama2", 2, {"model.family=llama", "parallel.bucket_mib=0.002"}},
    {"Llama4", 4, {"model.family=llama", "run.reproducible=ranks"}},
};
INSTANTIATE_TEST_SUITE_P(Layouts, ReplayTest, ::testing::ValuesIn(kCases), name_of_case);

// Everything in it is finite: loss, norm and every shard again to the bit.
TEST(ReplayBundles, ASpike) {
  TrainingWorld world(lockstep::testing::tiny_config());
  for (const int ranks : {1, 4}) {
    TrainingRun asked =
        forgiving_run(ranks, {"train.steps=21", "schedule.warmup_steps=1", "data.order=sequential",
                              "health.spike_factor=10", "parallel.verify_every=0"});
    // After 20 healthy steps somebody breaks a weight.
    asked.body = [](lockstep::testing::Rank& rank) {
      while (rank.trainer.progress().step < 20) {
        EXPECT_TRUE(rank.trainer.step().applied());
      }
      const std::vector<float> gains(32, 200.0F);
      rank.trainer.state().finish_gather();
      rank.trainer.state().set_parameter(rank.trainer.table().find("head.norm.weight"),
                                         gains.data());
      const StepDecision decision = rank.trainer.step();
      EXPECT_EQ(decision.outcome, StepOutcome::kSpike)
          << decision.loss << " " << decision.grad_norm;
    };
    const TrainingResult run = world.train(asked);
    ASSERT_EQ(run.error, std::nullopt) << run.message;
    const ReplayResult result = replay(bundle_of(run, 21));
    expect_same_bits(result);
    for (const ReplayComparison& number : result.numbers)
      EXPECT_TRUE(std::isfinite(number.recorded)) << number.name;
    EXPECT_THAT(nonfinite_layers(result.gradients), ElementsAre());
  }
}

TEST(ReplayBundles, OneForTheFirstOfAStretch) {
  TrainingWorld world(lockstep::testing::tiny_config());
  const TrainingResult run = world.train(
      forgiving_run(2, {"train.steps=8", "schedule.warmup_steps=1",
                        "fault=[{kind: overflow, step: 2}, {kind: overflow, step: 3, rank: 1}, "
                        "{kind: nan, step: 4}, {kind: nan, step: 6}]"}));
  EXPECT_THAT(bundles(run), ElementsAre("step-00000002", "step-00000006"));
}

TEST(ReplayBundles, TheStepThatEndsTheRun) {
  TrainingWorld world(lockstep::testing::tiny_config());
  TrainingRun asked = forgiving_run(
      2, {"precision.loss_scale.max_consecutive_skips=3",
          "fault=[{kind: overflow, step: 2}, {kind: overflow, step: 3}, {kind: nan, step: 4}]"});
  asked.body = [](lockstep::testing::Rank& rank) { rank.trainer.run(); };
  const TrainingResult run = world.train(asked);
  EXPECT_EQ(run.error, core::ErrorKind::kDiverged);
  EXPECT_THAT(bundles(run), ElementsAre("step-00000002", "step-00000004"));
  const ReplayBundle last = read_replay_bundle(bundle_of(run, 4));
  EXPECT_TRUE(last.record.stopped);
  EXPECT_EQ(last.record.outcome, "diverged");
  EXPECT_FALSE(read_replay_bundle(bundle_of(run, 2)).record.stopped);
}

TEST(ReplayBundles, TheNewestAreKept) {
  const std::string faults =
      "fault=[{kind: overflow, step: 1}, {kind: overflow, step: 3}, {kind: overflow, step: 5}]";
  TrainingWorld world(lockstep::testing::tiny_config());
  const std::vector<std::string> base = {"train.steps=6", faults};
  EXPECT_THAT(bundles(world.train(forgiving_run(1, base))),
              ElementsAre("step-00000001", "step-00000003", "step-00000005"));
  auto fewer = base;
  fewer.emplace_back("health.replay_bundles=2");
  EXPECT_THAT(bundles(world.train(forgiving_run(1, fewer))),
              ElementsAre("step-00000003", "step-00000005"));
  auto none = base;
  none.emplace_back("health.replay_bundles=0");
  EXPECT_THAT(bundles(world.train(forgiving_run(1, none))), ElementsAre());
}

TEST(ReplayBundles, NoRunEndsForWantOfOne) {
  TrainingWorld world(lockstep::testing::tiny_config());
  TrainingRun asked = forgiving_run(2, {kOverflowAt3});
  asked.output = "blocked";
  fs::create_directories(world.directory() / "blocked");
  world.directory().write("blocked/replay", "a file where the directory should be");
  const TrainingResult run = world.train(asked);
  EXPECT_EQ(run.error, std::nullopt) << run.message;
  EXPECT_EQ(run.step_lines().size(), 4U);
}

// A record that says otherwise is found out: to the bit under `ranks`, else beyond 1e-5.
TEST(ReplayVerdict, ARecordThatDiffers) {
  TrainingWorld world(lockstep::testing::tiny_config());
  for (const bool exact : {true, false}) {
    const TrainingResult run = world.train(forgiving_run(
        2, {kOverflowAt3, exact ? "run.reproducible=ranks" : "run.reproducible=run"}));
    const auto with_loss = [&](double factor) {
      ReplayBundle bundle = read_replay_bundle(bundle_of(run, 3));
      bundle.record.loss *= factor;
      core::MemoryTracker memory;
      core::Logger log(0, 1, core::LogLevel::kError);
      return replay_step(bundle, 1, memory, log);
    };
    const double one_bit = 1.0 + std::numeric_limits<double>::epsilon();
    EXPECT_TRUE(with_loss(1.0).reproduced());
    EXPECT_EQ(with_loss(one_bit).reproduced(), !exact);
    EXPECT_FALSE(with_loss(one_bit).all_same());
    EXPECT_FALSE(with_loss(1.0 + 1e-4).reproduced());
    EXPECT_FALSE(with_loss(std::nan("")).reproduced());
  }
}

class DamagedBundle : public ::testing::Test {
 protected:
  DamagedBundle() { path_ = bundle_of(world_.train(forgiving_run(2, {kOverflowAt3})), 3); }

  std::string file(const std::string& name) const { return path_ + "/" + name; }
  static void overwrite(const std::string& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
  }
  // What reading it says.
  std::string complaint(const std::string& path) const {
    try {
      read_replay_bundle(path);
    } catch (const core::Error& error) {
      EXPECT_EQ(error.kind(), core::ErrorKind::kData) << error.what();
      return error.what();
    }
    return "";
  }
  std::string complaint() const { return complaint(path_); }

  TrainingWorld world_{lockstep::testing::tiny_config()};
  std::string path_;
};

TEST_F(DamagedBundle, EveryFile) {
  ASSERT_EQ(complaint(), "");
  for (const char* name :
       {"manifest.json", "weights.safetensors", "batch.safetensors", "config.yaml"}) {
    SCOPED_TRACE(name);
    const std::string whole = read_file(file(name));
    for (const std::size_t at : {std::size_t{9}, whole.size() / 2, whole.size() - 2}) {
      std::string flipped = whole;
      flipped[at] = static_cast<char>(flipped[at] ^ 1);
      overwrite(file(name), flipped);
      EXPECT_THAT(complaint(), HasSubstr(name)) << "byte " << at;
      overwrite(file(name), whole.substr(0, at));
      EXPECT_THAT(complaint(), HasSubstr(name)) << "cut at " << at;
    }
    fs::remove(file(name));
    EXPECT_THAT(complaint(), HasSubstr(name));
    overwrite(file(name), whole);
  }
  EXPECT_EQ(complaint(), "");
}

TEST_F(DamagedBundle, SomethingElse) {
  EXPECT_THAT(complaint(world_.directory().path()), HasSubstr("expected a replay bundle"));
  EXPECT_THAT(complaint(fs::path(path_).parent_path()), HasSubstr("it holds the bundle " + path_));
  overwrite(file("manifest.json"), R"({"version":1})");
  EXPECT_THAT(complaint(), HasSubstr("expected the manifest of a replay bundle"));
  overwrite(file("manifest.json"), R"({"format":"lockstep replay bundle","version":2})");
  EXPECT_THAT(complaint(), HasSubstr("expected version 1, found 2"));
}

}  // namespace
}  // namespace lockstep::runtime
