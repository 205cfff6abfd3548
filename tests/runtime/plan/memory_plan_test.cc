// What `lockstep plan` predicts against what the allocator counts in real training.
#include "runtime/plan/memory_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <ostream>
#include <string>
#include <vector>

#include "tests/support/training_world.h"

namespace lockstep::runtime {
namespace {

using lockstep::testing::Rank;
using lockstep::testing::TrainingRun;
using lockstep::testing::TrainingWorld;
using ::testing::HasSubstr;
using Usages = std::map<std::string, core::MemoryTracker::Usage>;

struct Case {
  std::string name;
  int ranks = 1;
  int threads = 1;
  int micro = 1;
  std::vector<std::string> overrides;

  friend void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }
};

std::string name_of(const ::testing::TestParamInfo<Case>& info) {
  return info.param.name;
}

class MemoryPlanTest : public ::testing::TestWithParam<Case> {};

// Without the memory of a checkpoint, which comes and goes.
Usages training_regions(const core::MemoryTracker& memory) {
  Usages regions = memory.regions();
  regions.erase("checkpoint");
  return regions;
}

void expect_planned(const MemoryPlan& plan, const core::MemoryTracker& memory) {
  SCOPED_TRACE(to_table(plan, &memory));
  Usages actual = memory.regions();
  for (const PlannedRegion& region : plan.regions) {
    EXPECT_EQ(actual[region.name].peak, region.bytes) << region.name;
    actual.erase(region.name);
  }
  for (const auto& [name, usage] : actual)
    EXPECT_EQ(usage.peak, 0U) << name << " is not planned";
  EXPECT_EQ(memory.peak(), plan.total());
}

TEST_P(MemoryPlanTest, EqualsWhatTheAllocatorCounts) {
  TrainingWorld world(lockstep::testing::tiny_config());
  TrainingRun run;
  run.ranks = GetParam().ranks;
  run.threads = GetParam().threads;
  run.overrides = {"train.steps=2",
                   "schedule.warmup_steps=1",
                   fmt::format("batch.micro={}", GetParam().micro),
                   fmt::format("batch.global={}", 2 * GetParam().micro * GetParam().ranks),
                   "data.validation=" + (world.directory() / "tokens.bin").string(),
                   "train.validate_every=2",
                   "train.validate_batches=1"};
  run.overrides.insert(run.overrides.end(), GetParam().overrides.begin(),
                       GetParam().overrides.end());
  run.body = [&](Rank& rank) {
    rank.trainer.step();
    const Usages after_first = training_regions(rank.memory);
    rank.trainer.run();
    for (const auto& [name, usage] : training_regions(rank.memory)) {
      const auto before = after_first.find(name);
      ASSERT_NE(before, after_first.end()) << name << " is new after the first step";
      EXPECT_EQ(usage.peak, before->second.peak) << name << " grew after the first step";
    }
    expect_planned(plan_memory(rank.config, run.ranks, run.threads, rank.number()), rank.memory);
  };
  const auto result = world.train(run);
  EXPECT_FALSE(result.error.has_value()) << result.message;
}

const std::string kWide = "model.width=128";
const std::string kLlama = "model.family=llama";
const std::string kBf16 = "precision.compute=bf16";
const std::string kFp16 = "precision.compute=fp16";

std::string frozen(const std::string& pattern, const std::string& other = "") {
  const auto item = [](const std::string& match) {
    return "{match: '" + match + "', freeze: true}";
  };
  return "optimizer.groups=[" + item(pattern) + (other.empty() ? "" : ", " + item(other)) + "]";
}

INSTANTIATE_TEST_SUITE_P(
    Runs, MemoryPlanTest,
    ::testing::Values(
        Case{"tiny", 1, 1, 1, {}}, Case{"short_context", 2, 2, 4, {"model.context=16"}},
        Case{"long_context", 1, 2, 2, {"model.context=256", "model.layers=1", kWide}},
        Case{"long_context_bf16", 2, 1, 4, {"model.context=256", "model.layers=1", kWide, kBf16}},
        Case{"long_context_fp16", 1, 2, 1, {"model.context=256", "model.layers=1", kWide, kFp16}},
        Case{"wide_fp32", 2, 1, 4, {"model.width=256", "model.context=64"}},
        Case{"wide_bf16", 2, 2, 4, {"model.width=256", "model.context=64", kBf16}},
        Case{"wide_fp16", 1, 1, 8, {"model.width=256", "model.context=64", kFp16}},
        Case{"odd_sizes",
             3,
             2,
             2,
             {"model.width=96", "model.heads=3", "model.context=23", "model.vocab=77"}},
        Case{"large_vocabulary", 2, 1, 4, {"model.vocab=5000", "model.context=32"}},
        Case{"untied_split_head",
             2,
             2,
             3,
             {"model.vocab=5000", "model.tie_embeddings=false", "parallel.bucket_mib=0.2",
              "model.context=32"}},
        Case{"llama", 2, 1, 2, {kLlama, kWide, "model.context=64"}},
        Case{"layers_measured",
             2,
             2,
             2,
             {kBf16, "metrics.per_layer_every=1", "metrics.histograms_every=1"}},
        Case{"llama_grouped_bf16",
             4,
             1,
             1,
             {kLlama, kBf16, "model.heads=4", "model.kv_heads=2", "model.width=64",
              "model.context=48"}},
        Case{"llama_tied_fp16",
             2,
             2,
             3,
             {kLlama, kFp16, "model.tie_embeddings=true", kWide, "model.context=40"}},
        Case{"qk_norm", 1, 2, 1, {kLlama, "model.qk_norm=true", "model.context=64"}},
        Case{"dropout_and_gates",
             2,
             1,
             2,
             {"model.dropout=0.1", "model.residual_gate=scalar", "model.context=64"}},
        Case{"post_norm", 1, 1, 1, {"model.norm_position=post", "model.positions=sinusoidal"}},
        Case{"stage_0", 2, 1, 1, {"parallel.zero_stage=0", "model.context=32"}},
        Case{"stage_0_every_round",
             3,
             1,
             1,
             {"parallel.zero_stage=0", "parallel.grad_sync=every_round", kBf16}},
        Case{"stage_1", 2, 1, 1, {"parallel.zero_stage=1", kFp16, "model.context=32"}},
        Case{"stage_1_every_round",
             4,
             1,
             1,
             {"parallel.zero_stage=1", "parallel.grad_sync=every_round"}},
        Case{"stage_2_boundary", 2, 1, 1, {"parallel.grad_sync=boundary", kBf16}},
        Case{"without_overlap", 2, 1, 1, {"parallel.overlap=false", kBf16}},
        Case{"sgd_without_momentum", 2, 1, 1, {"optimizer.name=sgd", kBf16}},
        Case{"attention_again", 1, 1, 2, {"memory.recompute=attention", "model.context=32"}},
        Case{"attention_again_llama_bf16",
             2,
             2,
             2,
             {"memory.recompute=attention", kLlama, kBf16, "model.qk_norm=true"}},
        Case{"blocks_again", 2, 1, 4, {"memory.recompute=block", "model.layers=4"}},
        Case{"blocks_again_post_norm_fp16",
             3,
             1,
             2,
             {"memory.recompute=block", "model.norm_position=post", kFp16, "model.dropout=0.1"}},
        Case{"blocks_again_gates_stage_0",
             2,
             2,
             1,
             {"memory.recompute=block", "model.residual_gate=scalar", "parallel.zero_stage=0"}},
        Case{"average", 2, 1, 1, {"ema.decay=0.9"}},
        Case{"average_stage_0_bf16", 3, 1, 1, {"ema.decay=0.9", "parallel.zero_stage=0", kBf16}},
        Case{"average_stage_1_fp16", 2, 2, 1, {"ema.decay=0.9", "parallel.zero_stage=1", kFp16}},
        Case{"frozen_embeddings", 2, 1, 2, {frozen("embeddings.*")}},
        Case{"frozen_embeddings_untied_llama",
             3,
             1,
             1,
             {frozen("embeddings.*"), kLlama, kBf16, "model.vocab=3000"}},
        Case{"frozen_lower_block",
             2,
             1,
             2,
             {frozen("embeddings.*", "block.0.*"), "model.layers=3", "model.context=64"}},
        Case{"frozen_blocks_stage_0",
             2,
             2,
             1,
             {frozen("embeddings.*", "block.*"), "parallel.zero_stage=0", kWide}},
        Case{"frozen_head_boundary",
             2,
             1,
             1,
             {frozen("head.*"), "model.tie_embeddings=false", "parallel.grad_sync=boundary"}},
        Case{"frozen_matrices", 1, 1, 2, {frozen("*.mlp.*.weight", "*attention.qkv*"), kFp16}},
        Case{"frozen_table_and_half_split_head",
             2,
             1,
             3,
             {frozen("embeddings.token.*"), "model.vocab=5000", "model.tie_embeddings=false",
              "parallel.bucket_mib=0.2", "model.context=32"}},
        Case{"everything_stage_2",
             4,
             1,
             2,
             {frozen("embeddings.*", "block.0.*"), "memory.recompute=block", "ema.decay=0.99",
              "model.layers=4", kBf16, "model.dropout=0.1"}},
        Case{"everything_stage_0",
             2,
             2,
             2,
             {frozen("block.1.mlp.*"), "memory.recompute=attention", "ema.decay=0.99",
              "model.layers=3", kFp16, "parallel.zero_stage=0", "model.residual_gate=scalar"}},
        Case{"everything_stage_1",
             3,
             1,
             2,
             {frozen("*.bias", "*norm*"), "memory.recompute=block", "ema.decay=0.99", "ema.every=2",
              "model.layers=3", "parallel.zero_stage=1", "optimizer.name=lion"}},
        Case{"everything_llama",
             2,
             1,
             1,
             {frozen("*.q_norm.*", "embeddings.*"), "memory.recompute=attention", "ema.decay=0.99",
              kLlama, "model.qk_norm=true", kBf16, "model.context=48"}}),
    name_of);

TEST(MemoryPlanTable, NamesEveryRegionAndTheTotal) {
  const TrainingWorld world(lockstep::testing::tiny_config());
  const MemoryPlan plan = plan_memory(world.config_of({}), 2, 1);
  const std::string table = to_table(plan, nullptr);
  std::size_t sum = 0;
  for (const PlannedRegion& region : plan.regions) {
    EXPECT_THAT(table, HasSubstr(region.name));
    sum += region.bytes;
  }
  EXPECT_EQ(plan.total(), sum);
  EXPECT_THAT(table, HasSubstr("total"));
}

}  // namespace
}  // namespace lockstep::runtime
