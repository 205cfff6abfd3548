// What is accepted, and what it means: defaults, derived values, overrides, ranks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "core/error.h"
#include "runtime/config/load_config.h"
#include "runtime/config/not_built.h"
#include "runtime/config/schema.h"
#include "tests/runtime/config/sample_config.h"

namespace lockstep::runtime {
namespace {

using test::sample_config;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

Config parse(const std::string& text, const std::vector<std::string>& overrides = {}) {
  return parse_config(text, "dir/sample.yaml", overrides);
}

TEST(DefaultsTest, AreThoseOfTheDesign) {
  const Config config = parse(sample_config(1, ""));
  EXPECT_EQ(config.run.name, "sample");
  EXPECT_EQ(config.run.seed, 1337U);
  EXPECT_EQ(config.run.output, std::filesystem::current_path() / "runs/sample");
  EXPECT_EQ(config.run.reproducible, Reproducible::kRun);
  EXPECT_EQ(config.model.family, models::Family::kGpt);
  EXPECT_EQ(config.model.kv_heads, 2);
  EXPECT_EQ(config.model.ffn_width, 256);
  EXPECT_EQ(config.model.dropout, 0.0);
  EXPECT_EQ(config.data.order, DataOrder::kShuffled);
  EXPECT_EQ(config.data.token_type, core::DType::kU16);
  EXPECT_EQ(config.optimizer.name, ops::OptimizerKind::kAdamW);
  EXPECT_THAT(config.optimizer.betas, ElementsAre(0.9, 0.95));
  EXPECT_EQ(config.optimizer.eps, 1e-8);
  EXPECT_EQ(config.optimizer.weight_decay, 0.1);
  EXPECT_EQ(config.schedule.name, ScheduleKind::kCosine);
  EXPECT_EQ(config.schedule.total_steps, 100);
  EXPECT_EQ(config.schedule.warmup_steps, 0);
  EXPECT_EQ(config.clip.mode, ClipMode::kGlobalNorm);
  EXPECT_EQ(config.clip.threshold, 1.0);
  EXPECT_EQ(config.precision.compute, core::DType::kF32);
  EXPECT_EQ(config.backend.device, DeviceChoice::kAuto);
  EXPECT_EQ(config.backend.comm, CommChoice::kAuto);
  EXPECT_EQ(config.backend.nccl_buffers, comm::NcclBuffers::kPlain);
  EXPECT_EQ(config.checkpoint.every_steps, 0);
  EXPECT_EQ(config.checkpoint.keep, 3);
  EXPECT_EQ(config.metrics.every_steps, 1);
}

TEST(DefaultsTest, OfLossScaleAndRanks) {
  const Config config = parse(sample_config());
  const LossScaleConfig& scale = config.precision.loss_scale;
  EXPECT_EQ(scale.mode, LossScaleMode::kNone);
  EXPECT_EQ(scale.initial, 65536.0);
  EXPECT_EQ(scale.growth_factor, 2.0);
  EXPECT_EQ(scale.backoff_factor, 0.5);
  EXPECT_EQ(scale.growth_interval, 2000);
  EXPECT_EQ(scale.hysteresis, 1);
  EXPECT_EQ(scale.hysteresis_mode, HysteresisMode::kConsecutive);
  EXPECT_EQ(scale.minimum, 1.0);
  EXPECT_EQ(scale.max_consecutive_skips, 50);
  EXPECT_EQ(scale.overflow_patience, 8);
  EXPECT_EQ(config.parallel.zero_stage, 2);
  EXPECT_EQ(config.parallel.grad_sync, GradSync::kEveryRound);
  EXPECT_EQ(config.parallel.bucket_mib, 25.0);
  EXPECT_TRUE(config.parallel.overlap);
  EXPECT_EQ(config.parallel.reduce_type, ReduceType::kAuto);
  EXPECT_EQ(config.parallel.verify_every, 100);
  EXPECT_EQ(config.parallel.timeout_seconds, 300.0);
}

TEST(DefaultsTest, EveryDefaultIsBuiltAndLegal) {
  for (const Key& key : schema_keys()) {
    if (key.default_kind != DefaultKind::kValue) continue;
    Problems problems;
    check_built(key.path, key.get(Config{}), {}, problems);
    EXPECT_TRUE(problems.empty()) << key.path;
  }
  for (const NotBuilt& row : not_built_table()) {
    EXPECT_TRUE(row.path == "fault.kind" || find_key(row.path) != nullptr) << row.path;
  }
}

TEST(DefaultsTest, FollowTheFamily) {
  const Config config = parse(sample_config(), {"model.family=llama"});
  EXPECT_EQ(config.model.norm, models::NormKind::kRmsNorm);
  EXPECT_EQ(config.model.activation, models::Activation::kSwiGlu);
  EXPECT_EQ(config.model.positions, models::Positions::kRope);
  EXPECT_EQ(config.model.rope_theta, 10000.0);
  EXPECT_EQ(config.model.bias, models::Bias::kNone);
  EXPECT_FALSE(config.model.tie_embeddings);
  EXPECT_EQ(config.model.ffn_width, 192);  // 8/3 * 64 = 170.7, rounded up to 64
  const Config changed = parse(sample_config(), {"model.bias=true", "model.family=llama"});
  EXPECT_EQ(changed.model.bias, models::Bias::kAll)
      << "a given key must win, wherever the family stands";
}

TEST(DefaultsTest, FollowOtherKeys) {
  EXPECT_EQ(parse(sample_config(), {"parallel.zero_stage=0"}).parallel.grad_sync,
            GradSync::kBoundary);
  EXPECT_EQ(parse(sample_config(), {"parallel.zero_stage=1"}).parallel.grad_sync,
            GradSync::kBoundary);
  EXPECT_EQ(parse(sample_config(), {"parallel.zero_stage=1", "run.reproducible=ranks"})
                .parallel.grad_sync,
            GradSync::kEveryRound);
  EXPECT_EQ(parse(sample_config(), {"precision.compute=fp16"}).precision.loss_scale.mode,
            LossScaleMode::kDynamic);
  EXPECT_EQ(parse(sample_config(), {"precision.compute=bf16"}).precision.loss_scale.mode,
            LossScaleMode::kNone);
  EXPECT_EQ(parse(sample_config(), {"run.name=x"}).run.output,
            std::filesystem::current_path() / "runs/x");
  EXPECT_EQ(parse(sample_config(), {"schedule.total_steps=50"}).schedule.total_steps, 50);
}

TEST(DefaultsTest, FollowTheModeOfClippingAndTheOptimizer) {
  const Config zclip = parse(sample_config(), {"clip.mode=zclip"});
  EXPECT_EQ(zclip.clip.window_decay, 0.97);
  EXPECT_EQ(zclip.clip.warmup_steps, 25);
  EXPECT_EQ(zclip.clip.z_threshold, 2.5);
  const Config adagc = parse(sample_config(), {"clip.mode=adagc"});
  EXPECT_EQ(adagc.clip.window_decay, 0.99);
  EXPECT_EQ(adagc.clip.warmup_steps, 100);
  EXPECT_EQ(adagc.clip.ratio, 1.04);
  EXPECT_EQ(parse(sample_config(), {"clip.mode=adagc", "clip.window_decay=0.5"}).clip.window_decay,
            0.5);
  const Config muon = parse(sample_config(), {"optimizer.name=muon"});
  EXPECT_EQ(muon.optimizer.muon.adamw_learning_rate, muon.optimizer.learning_rate);
  EXPECT_EQ(muon.optimizer.muon.ns_dtype, core::DType::kF32);
  EXPECT_EQ(state_tensors(muon.optimizer), 2);
}

TEST(DefaultsTest, ValidationDataComeFromThePreparedDirectory) {
  const std::filesystem::path folder = ::testing::TempDir() + "/config_prepared";
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "validation.bin") << "x";
  const Config config = parse(sample_config(), {"data.train=" + folder.string()});
  EXPECT_THAT(config.data.validation, ElementsAre(config.data.train.front()));
  EXPECT_TRUE(parse(sample_config()).data.validation.empty());
  std::filesystem::remove_all(folder);
}

TEST(ReduceTypeTest, AutoFollowsGradSync) {
  EXPECT_EQ(reduce_dtype(parse(sample_config(), {"precision.compute=bf16"})), core::DType::kBF16);
  EXPECT_EQ(reduce_dtype(
                parse(sample_config(), {"precision.compute=bf16", "parallel.grad_sync=boundary"})),
            core::DType::kF32);
  EXPECT_EQ(reduce_dtype(parse(sample_config(), {"parallel.reduce_type=fp16"})), core::DType::kF16);
}

TEST(FormTest, JsonAnchorsQuotesAndEmptySections) {
  const Config json = parse(R"({"model": {"layers": 2, "heads": 2, "width": 64, "context": 32,
    "vocab": 256, "norm": "rmsnorm"}, "data": {"train": ["b.bin", "a.bin"]},
    "batch": {"global": 8, "micro": 2}, "train": {"steps": 100},
    "optimizer": {"learning_rate": 1E-3, "weight_decay": 0}, "clip": null})");
  EXPECT_EQ(json.model.norm, models::NormKind::kRmsNorm);
  EXPECT_EQ(json.optimizer.learning_rate, 1e-3);
  EXPECT_EQ(json.optimizer.weight_decay, 0.0);
  EXPECT_EQ(json.data.train.size(), 2U);
  const Config anchors = parse(sample_config(5, "train: {steps: &n 60}") +
                               "schedule: {warmup_steps: 0, total_steps: *n}\nclip:\n");
  EXPECT_EQ(anchors.schedule.total_steps, 60);
}

TEST(FormTest, NumbersInAllLegalForms) {
  for (const auto& [text, expected] :
       std::vector<std::pair<const char*, double>>{{"0.5", 0.5}, {"5e-1", 0.5}, {".5", 0.5}}) {
    EXPECT_EQ(parse(sample_config(), {std::string("optimizer.learning_rate=") + text})
                  .optimizer.learning_rate,
              expected);
  }
  EXPECT_EQ(parse(sample_config(), {"run.seed=0"}).run.seed, 0U);
  EXPECT_EQ(parse(sample_config(), {"run.seed=9223372036854775807"}).run.seed,
            9223372036854775807U);
}

TEST(OverrideTest, LastOneWinsAndNullRemoves) {
  EXPECT_EQ(parse(sample_config(), {"train.steps=5", "train.steps=6"}).train.steps, 6);
  EXPECT_EQ(parse(sample_config(), {"run.seed=null"}).run.seed, 1337U);
  const Config section = parse(sample_config(), {"clip={mode: value, threshold: 0.5}"});
  EXPECT_EQ(section.clip.mode, ClipMode::kValue);
  EXPECT_EQ(section.clip.threshold, 0.5);
  EXPECT_EQ(parse(sample_config(7, "clip: {threshold: 2}"), {"clip=null"}).clip.threshold, 1.0);
  EXPECT_EQ(parse(sample_config(1, "run: {seed: 007}"), {"run.seed=7"}).run.seed, 7U);
}

TEST(OverrideTest, FaultsAreReadWhole) {
  const Config config =
      parse(sample_config(), {"fault=[{kind: overflow, step: 3, rank: 1, layer: 1}, "
                              "{kind: slow, step: 4}]"});
  EXPECT_THAT(config.fault, ElementsAre(FaultConfig{FaultKind::kOverflow, 3, 1, 1},
                                        FaultConfig{FaultKind::kSlow, 4, 0, 0}));
}

TEST(WorldTest, ListsTheRankCountsThatFit) {
  const Config config = parse(sample_config(4, "batch: {global: 24, micro: 2}"));
  EXPECT_EQ(accumulation_rounds(config, 1), 12);
  EXPECT_EQ(accumulation_rounds(config, 4), 3);
  validate_for_world(config, 12);
  for (const int world : {0, 5, 24}) {
    try {
      validate_for_world(config, world);
      FAIL() << world << " ranks were accepted";
    } catch (const core::Error& error) {
      EXPECT_EQ(error.kind(), core::ErrorKind::kConfig);
      EXPECT_THAT(error.what(), HasSubstr("rank counts that fit: 1, 2, 3, 4, 6, 12"));
    }
  }
}

TEST(WorldTest, RefusesRanksThatDoNotExist) {
  const Config fault = parse(sample_config(), {"fault=[{kind: nan, step: 1, rank: 2}]"});
  EXPECT_THROW(validate_for_world(fault, 2), core::Error);
  validate_for_world(fault, 4);
  const Config self = parse(sample_config(), {"backend.comm=self"});
  validate_for_world(self, 1);
  EXPECT_THROW(validate_for_world(self, 2), core::Error);
}

}  // namespace
}  // namespace lockstep::runtime
