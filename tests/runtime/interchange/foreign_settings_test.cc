#include "runtime/interchange/foreign_settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>

#include "core/error.h"
#include "runtime/config/load_config.h"
#include "tests/runtime/config/sample_config.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::runtime {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

ForeignSettings deepspeed(const std::string& text, SettingsBase base = SettingsBase::kNone) {
  return read_deepspeed(text, "ds.json", base);
}

std::map<std::string, std::string> keys_of(const ForeignSettings& settings) {
  return {settings.keys.begin(), settings.keys.end()};
}

std::string refusal(const std::string& text) {
  try {
    deepspeed(text);
  } catch (const core::Error& error) {
    EXPECT_EQ(error.kind(), core::ErrorKind::kConfig);
    return error.what();
  }
  return "";
}

// What is printed is a configuration, over a sample that has the rest.
Config over_sample(const ForeignSettings& settings) {
  const testing::TemporaryDirectory directory;
  const std::string base = (directory / "base.yaml").string();
  std::ofstream(base) << test::sample_config();
  return parse_config(settings_as_yaml(settings, base), "merged.yaml");
}

TEST(DeepSpeed, TheUsualSmallFileWorksAsItIs) {
  const ForeignSettings settings = deepspeed(
      R"({"fp16": {"enabled": true}, "gradient_clipping": 1.0,
          "zero_optimization": {"stage": 2, "contiguous_gradients": true}})");
  EXPECT_THAT(settings.left, ::testing::ElementsAre(HasSubstr("fp16.loss_scale_window")));
  const Config config = over_sample(settings);
  EXPECT_EQ(config.parallel.zero_stage, 2);
  EXPECT_EQ(config.precision.compute, core::DType::kF16);
  const LossScaleConfig& scale = config.precision.loss_scale;
  EXPECT_EQ(scale.mode, LossScaleMode::kDynamic);
  EXPECT_EQ(scale.initial, 65536.0);
  EXPECT_EQ(scale.growth_interval, 1000);
  EXPECT_EQ(scale.hysteresis, 2);
  EXPECT_EQ(scale.hysteresis_mode, HysteresisMode::kBudget);
  EXPECT_EQ(scale.overflow_patience, 1);
  EXPECT_EQ(config.clip.mode, ClipMode::kGlobalNorm);
  EXPECT_EQ(config.clip.threshold, 1.0);
  const std::string text = settings_as_yaml(settings, "");
  EXPECT_THAT(text,
              HasSubstr("precision:\n  compute: fp16\n  loss_scale:\n    growth_interval: 1000\n"));
  EXPECT_THAT(text, HasSubstr("parallel:\n  zero_stage: 2\n"));
}

TEST(DeepSpeed, EveryKeyHasItsCounterpart) {
  const auto keys = keys_of(deepspeed(R"({
    "train_batch_size": 16, "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 4,
    "gradient_clipping": 0,
    "fp16": {"enabled": true, "initial_scale_power": 10, "loss_scale_window": "500",
             "hysteresis": 3, "consecutive_hysteresis": true, "min_loss_scale": 2},
    "zero_optimization": {"stage": 1, "overlap_comm": false, "reduce_bucket_size": 5e8},
    "optimizer": {"type": "Adam", "params": {"lr": "3e-4", "betas": [0.8, 0.95], "eps": 1e-7,
                                             "weight_decay": 0.01, "adam_w_mode": false}},
    "scheduler": {"type": "WarmupCosineLR", "params": {"total_num_steps": 200,
                  "warmup_num_steps": 20, "cos_min_ratio": 0.1}},
    "communication_data_type": "fp32"})"));
  const std::map<std::string, std::string> expected = {
      {"batch.global", "16"},
      {"batch.micro", "2"},
      {"clip.mode", "none"},
      {"optimizer.betas", "[0.8, 0.95]"},
      {"optimizer.eps", "1e-7"},
      {"optimizer.learning_rate", "3e-4"},
      {"optimizer.name", "adam"},
      {"optimizer.weight_decay", "0.01"},
      {"parallel.overlap", "false"},
      {"parallel.reduce_type", "fp32"},
      {"parallel.zero_stage", "1"},
      {"precision.compute", "fp16"},
      {"precision.loss_scale.growth_interval", "500"},
      {"precision.loss_scale.hysteresis", "3"},
      {"precision.loss_scale.hysteresis_mode", "consecutive"},
      {"precision.loss_scale.initial", "1024"},
      {"precision.loss_scale.minimum", "2"},
      {"precision.loss_scale.mode", "dynamic"},
      {"precision.loss_scale.overflow_patience", "1"},
      {"schedule.min_learning_rate", "2.9999999999999997e-5"},
      {"schedule.name", "cosine"},
      {"schedule.total_steps", "200"},
      {"schedule.warmup_steps", "20"},
  };
  EXPECT_EQ(keys, expected);
}

TEST(DeepSpeed, WhatChangesNumbersAndCannotBeSaidIsRefused) {
  for (const auto& [text, key] : std::map<std::string, std::string>{
           {R"({"zero_optimization": {"stage": 3}})", "zero_optimization.stage 3"},
           {R"({"optimizer": {"type": "Lamb"}})", "optimizer.type"},
           {R"({"scheduler": {"type": "OneCycle"}})", "scheduler.type"},
           {R"({"fp16": {"enabled": true}, "bf16": {"enabled": true}})", "bf16"},
           {R"({"fp16": {"enabled": true, "fp16_master_weights_and_grads": true}})",
            "fp16_master_weights_and_grads"},
           {R"({"gradient_allreduce_op": "sum"})", "gradient_allreduce_op"},
           {R"({"curriculum_learning": {"enabled": true}})", "curriculum_learning"},
           {R"({"amp": {"enabled": true}})", "amp"},
           {R"({"train_batch_size": "auto"})", "train_batch_size \"auto\""},
           {R"({"train_batch_size": 2.5})", "train_batch_size"},
           {R"({"fp16": {"enabled": "yes"}})", "fp16.enabled"}}) {
    EXPECT_THAT(refusal(text), HasSubstr(key)) << text;
  }
  EXPECT_THROW(deepspeed("[]"), core::Error);
  EXPECT_THROW(deepspeed("// a comment\n{}"), core::Error);
}

TEST(DeepSpeed, AutoMeansTheBase) {
  const ForeignSettings settings = deepspeed(
      R"({"train_batch_size": "auto", "fp16": {"enabled": "auto"}, "gradient_clipping": "auto"})",
      SettingsBase::kGiven);
  EXPECT_FALSE(keys_of(settings).contains("batch.global"));
  EXPECT_FALSE(keys_of(settings).contains("precision.compute"));
  EXPECT_FALSE(keys_of(settings).contains("clip.mode"));
}

TEST(DeepSpeed, EveryOtherKeyIsListed) {
  const ForeignSettings settings = deepspeed(
      R"({"gradient_clipping": 1.0, "steps_per_print": 10, "wall_clock_breakdown": false,
          "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"},
                                "reduce_bucket_size": 5e8}, "my_own": [1]})");
  EXPECT_THAT(settings.left, Contains(HasSubstr("steps_per_print 10")));
  EXPECT_THAT(settings.left, Contains(HasSubstr("offload_optimizer.device \"cpu\"")));
  EXPECT_THAT(settings.left, Contains(HasSubstr("reduce_bucket_size")));
  EXPECT_THAT(settings.left, Contains(HasSubstr("my_own [1]")));
  EXPECT_THAT(settings.left, Not(Contains(HasSubstr("wall_clock_breakdown"))));
  EXPECT_THAT(deepspeed("{}").left, Contains(HasSubstr("gradient_clipping: absent")));
}

TEST(TrainingArguments, EveryKeyHasItsCounterpart) {
  const ForeignSettings settings = read_training_arguments(
      R"({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 300,
          "learning_rate": 2e-5, "weight_decay": 0.1, "adam_beta2": 0.98, "warmup_ratio": 0.1,
          "lr_scheduler_type": "cosine", "bf16": true, "max_grad_norm": 0.5, "seed": 7,
          "label_smoothing_factor": 0.1, "save_steps": 50, "report_to": ["none"],
          "optim": "adamw_torch_fused"})",
      "args.json");
  auto keys = keys_of(settings);
  EXPECT_EQ(keys["batch.micro"], "4");
  EXPECT_EQ(keys["train.steps"], "300");
  EXPECT_EQ(keys["optimizer.learning_rate"], "2e-5");
  EXPECT_EQ(keys["optimizer.betas"], "[0.9, 0.98]");
  EXPECT_EQ(keys["schedule.name"], "cosine");
  EXPECT_EQ(keys["schedule.warmup_steps"], "30");
  EXPECT_EQ(keys["precision.compute"], "bf16");
  EXPECT_EQ(keys["clip.threshold"], "0.5");
  EXPECT_EQ(keys["run.seed"], "7");
  EXPECT_EQ(keys["loss.label_smoothing"], "0.1");
  EXPECT_EQ(keys["checkpoint.every_steps"], "50");
  EXPECT_THAT(settings.left, Contains(HasSubstr("batch.global is 4 x 2 x ranks")));
  EXPECT_THAT(settings.left, Contains(HasSubstr("report_to")));
  const Config config = over_sample(settings);
  EXPECT_EQ(config.train.steps, 300);
  EXPECT_THROW(read_training_arguments(R"({"optim": "adafactor"})", "a"), core::Error);
  EXPECT_THROW(read_training_arguments(R"({"lr_scheduler_type": "polynomial"})", "a"), core::Error);
}

}  // namespace
}  // namespace lockstep::runtime
