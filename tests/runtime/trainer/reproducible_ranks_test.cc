#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/support/training_world.h"

// run.reproducible: ranks: the same bits at every number of ranks, every stage, every thread count.
namespace lockstep::testing {
namespace {

// The thread sanitizer does not know libgomp's barriers.
#if defined(__SANITIZE_THREAD__)
constexpr int kMostThreads = 1;
#else
constexpr int kMostThreads = 2;
#endif

struct Variant {
  const char* name;
  std::vector<std::string> overrides;
};

class ReproducibleRanks : public ::testing::TestWithParam<Variant> {
 protected:
  // Found on one rank in stage 0 with one thread, then compared with all the others.
  static void expect_same_bits(TrainingWorld& world, const TrainingRun& run,
                               const std::vector<int>& ranks, const std::vector<int>& stages) {
    TrainingRun first = run;
    first.overrides.push_back("parallel.zero_stage=0");
    const TrainingResult reference = world.train(first);
    ASSERT_FALSE(reference.error) << reference.message;
    ASSERT_FALSE(reference.step_lines().empty());
    for (const int n : ranks) {
      for (const int stage : stages) {
        for (int threads = 1; threads <= kMostThreads; ++threads) {
          SCOPED_TRACE(fmt::format("{} ranks, stage {}, {} threads", n, stage, threads));
          TrainingRun other = run;
          other.ranks = n;
          other.threads = threads;
          other.overrides.push_back(fmt::format("parallel.zero_stage={}", stage));
          const TrainingResult found = world.train(other);
          EXPECT_EQ(found.state, reference.state);
          EXPECT_EQ(found.step_lines(), reference.step_lines());
          EXPECT_EQ(found.ledger, reference.ledger);
          if (HasFailure()) return;
        }
      }
    }
  }
};

TEST_P(ReproducibleRanks, SameWeightsStepLinesAndLedger) {
  TrainingWorld world(tiny_config());
  TrainingRun run;
  run.overrides = {"batch.global=24", "train.steps=4", "run.reproducible=ranks",
                   "parallel.verify_every=2"};
  run.overrides.insert(run.overrides.end(), GetParam().overrides.begin(),
                       GetParam().overrides.end());
  const bool split = std::string(GetParam().name) == "llama_split";
  expect_same_bits(world, run,
                   split ? std::vector<int>{1, 2, 3} : std::vector<int>{1, 2, 3, 4, 6, 8},
                   split ? std::vector<int>{0, 2} : std::vector<int>{0, 1, 2});
}

INSTANTIATE_TEST_SUITE_P(
    Precisions, ReproducibleRanks,
    ::testing::Values(
        Variant{"gpt_fp32", {"model.dropout=0.1"}},
        Variant{"gpt_bf16", {"precision.compute=bf16", "model.dropout=0.1"}},
        Variant{"llama_fp16",
                {"precision.compute=fp16", "model.family=llama",
                 "precision.loss_scale.growth_interval=2"}},
        // Embeddings and head in many buckets, which begin and end elsewhere at other rank counts.
        Variant{"llama_split",
                {"model.family=llama", "parallel.bucket_mib=0.0001", "model.vocab=6200"}}),
    [](const auto& each) { return std::string(each.param.name); });

TEST(ReproducibleRanksWithClipping, EveryModeIsTheSame) {
  TrainingWorld world(tiny_config());
  for (const char* mode : {"tensor_norm", "value", "zclip", "adagc", "none"}) {
    TrainingRun run;
    run.overrides = {"train.steps=4", "run.reproducible=ranks", fmt::format("clip.mode={}", mode)};
    if (std::string(mode) != "none") run.overrides.push_back("clip.threshold=0.01");
    if (mode[0] == 'z' || mode[0] == 'a') run.overrides.push_back("clip.warmup_steps=2");
    const TrainingResult alone = world.train(run);
    for (const int ranks : {2, 3}) {
      run.ranks = ranks;
      const TrainingResult found = world.train(run);
      EXPECT_EQ(found.state, alone.state) << mode << ranks;
      EXPECT_EQ(found.ledger, alone.ledger) << mode << ranks;
    }
  }
}

// What is computed again has the bits of what is kept, in every precision.
TEST(ReproducibleRanksWithRecompute, SameBitsAsKeeping) {
  TrainingWorld world(tiny_config());
  for (const char* compute : {"fp32", "bf16", "fp16"}) {
    TrainingRun run;
    run.overrides = {"batch.global=24",        "train.steps=3",
                     "run.reproducible=ranks", "model.layers=3",
                     "model.dropout=0.1",      fmt::format("precision.compute={}", compute)};
    const TrainingResult kept = world.train(run);
    for (const char* recompute : {"attention", "block"}) {
      for (const int ranks : {1, 2, 3, 4, 8}) {
        for (const int stage : {0, 2}) {
          SCOPED_TRACE(fmt::format("{} {} {} ranks stage {}", compute, recompute, ranks, stage));
          TrainingRun again = run;
          again.ranks = ranks;
          again.overrides.push_back(fmt::format("memory.recompute={}", recompute));
          again.overrides.push_back(fmt::format("parallel.zero_stage={}", stage));
          const TrainingResult found = world.train(again);
          EXPECT_EQ(found.state, kept.state);
          EXPECT_EQ(found.step_lines(), kept.step_lines());
          EXPECT_EQ(found.ledger, kept.ledger);
        }
      }
    }
  }
}

// The same run twice, without `ranks`: the same bits on the same number of ranks.
TEST(ReproducibleRun, TwiceTheSame) {
  TrainingWorld world(tiny_config());
  TrainingRun run;
  run.ranks = 3;
  run.overrides = {"train.steps=5", "precision.compute=bf16", "parallel.grad_sync=boundary"};
  const TrainingResult first = world.train(run);
  const TrainingResult second = world.train(run);
  EXPECT_EQ(first.state, second.state);
  EXPECT_EQ(first.ledger, second.ledger);
}

}  // namespace
}  // namespace lockstep::testing
