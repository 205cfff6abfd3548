// The stored form of a configuration, its fingerprint, and differences.
#include "runtime/config/dump_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "runtime/config/load_config.h"
#include "runtime/config/schema.h"
#include "tests/runtime/config/sample_config.h"

namespace lockstep::runtime {
namespace {

using test::sample_config;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

Config parse(const std::vector<std::string>& overrides = {}) {
  return parse_config(sample_config(), "sample.yaml", overrides);
}

TEST(ToYamlTest, ParsesBackToTheSame) {
  const std::vector<std::vector<std::string>> variants = {
      {},
      {"model.family=llama", "model.kv_heads=1", "model.init_from=weights.safetensors"},
      {"schedule={name: step, step_size: 7, gamma: 0.3}", "optimizer.name=rmsprop",
       "optimizer.momentum=0.7"},
      {"schedule={name: wsd, decay_steps: 7}", "optimizer.name=lion", "clip.mode=none"},
      {"schedule.name=inverse_sqrt", "optimizer.name=sgd", "run.seed=9223372036854775807"},
      {"precision={compute: fp16, loss_scale: {initial: 1024, hysteresis_mode: budget}}"},
      {"fault=[{kind: bitflip, step: 3, rank: 1, layer: 1}]", "backend.threads=3"},
      {"optimizer.groups=[{match: 'block.0.*', freeze: true}, {match: '*.bias', weight_decay: 0}]",
       "ema.decay=0.9", "ema.every=3", "ema.warmup=true"},
      {"run.name='a: \"b\" #c'", "data.train=['x y.bin', '*.bin', 'ü.bin', 'a\\b']"},
      {"run.name=true", "data.label_field=null", "optimizer.learning_rate=0.1234567890123456789"},
      {"run.name=null", "data.validation=v.bin", "train.validate_every=5"},
      {"backend={device: cuda, comm: nccl, nccl_buffers: symmetric}"},
  };
  const auto* name = find_key("run.name");
  for (const auto& overrides : variants) {
    const Config config = parse(overrides);
    const std::string text = to_yaml(config);
    const Config again = parse_config(text, "config.yaml");
    for (const Key& key : schema_keys()) {
      EXPECT_EQ(key.get(again), key.get(config)) << key.path << " in\n" << text;
    }
    EXPECT_THAT(diff_configs(config, again), IsEmpty());
    EXPECT_EQ(to_yaml(again), text);
    EXPECT_EQ(fingerprint(again), fingerprint(config));
    EXPECT_EQ(name->get(again), name->get(config));
  }
}

TEST(ToYamlTest, HoldsAbsolutePathsAndNoKeyWithoutEffect) {
  const std::string text =
      to_yaml(parse({"model.init_from=w.safetensors", "schedule.name=constant"}));
  const std::string here = std::filesystem::current_path().string();
  EXPECT_THAT(text, HasSubstr("train: [" + here + "/train.bin]"));
  EXPECT_THAT(text, HasSubstr("init_from: " + here + "/w.safetensors"));
  EXPECT_THAT(text, HasSubstr("output: " + here + "/runs/sample"));
  EXPECT_THAT(text, Not(HasSubstr("total_steps")));
  EXPECT_THAT(text, Not(HasSubstr("gamma")));
}

TEST(FingerprintTest, CoversTheMathematicsAndNothingElse) {
  const std::uint64_t base = fingerprint(parse());
  const std::vector<std::string> covered = {"run.seed=8",
                                            "model.layers=3",
                                            "model.dropout=0.1",
                                            "model.head_width=16",
                                            "model.attention_window=[0, 8]",
                                            "model.bias=qkv",
                                            "data.order=sequential",
                                            "batch.global=16",
                                            "batch.micro=4",
                                            "loss.z_loss=1e-4",
                                            "optimizer.eps=1e-7",
                                            "schedule.warmup_steps=3",
                                            "clip.threshold=2",
                                            "precision.compute=bf16",
                                            "precision.loss_scale.max_consecutive_skips=9"};
  for (const std::string& change : covered)
    EXPECT_NE(fingerprint(parse({change})), base) << change;
  const std::vector<std::string> free = {"run.name=x",
                                         "run.output=y",
                                         "data.train=other.bin",
                                         "parallel.zero_stage=0",
                                         "backend.threads=2",
                                         "backend.nccl_buffers=registered",
                                         "checkpoint.keep=9",
                                         "metrics.every_steps=5",
                                         "run.reproducible=ranks",
                                         "model.init_from=w",
                                         "fault=[{kind: nan, step: 1}]",
                                         "clip.threshold=1.0"};
  for (const std::string& change : free)
    EXPECT_EQ(fingerprint(parse({change})), base) << change;
}

TEST(DiffTest, NamesKeysWithOldAndNewValue) {
  const auto differences =
      diff_configs(parse(), parse({"optimizer.learning_rate=2e-3", "checkpoint.keep=4",
                                   "schedule={name: step, step_size: 3, gamma: 0.5}"}));
  std::vector<std::string> lines;
  for (const ConfigDifference& item : differences) {
    lines.push_back(item.key + " " + item.before + "->" + item.after +
                    (item.in_fingerprint ? " fingerprint" : ""));
  }
  EXPECT_THAT(
      lines, ::testing::ElementsAre(
                 "optimizer.learning_rate 0.001->0.002 fingerprint",
                 "schedule.name cosine->step fingerprint", "schedule.total_steps 100-> fingerprint",
                 "schedule.min_learning_rate 0-> fingerprint", "schedule.step_size ->3 fingerprint",
                 "schedule.gamma ->0.5 fingerprint", "checkpoint.keep 3->4"));
}

TEST(FormatNumberTest, IsShortestAndReadsBackToTheSameBits) {
  EXPECT_EQ(format_number(65536.0), "65536");
  EXPECT_EQ(format_number(1e-8), "1e-8");
  EXPECT_EQ(format_number(1e-12), "1e-12");
  EXPECT_EQ(format_number(0.1), "0.1");
  for (double value = 1.0 / 3.0; value > 1e-300; value /= 7919.0) {
    EXPECT_EQ(std::stod(format_number(value)), value);
  }
}

}  // namespace
}  // namespace lockstep::runtime
