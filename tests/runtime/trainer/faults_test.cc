#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "tests/support/training_world.h"

namespace lockstep::testing {
namespace {

using runtime::StepOutcome;
using ::testing::HasSubstr;

std::string faults(const std::vector<std::string>& each) {
  return fmt::format("fault: [{}]\n", fmt::join(each, ", "));
}

std::string overflow_at(int step, int rank, int layer) {
  return fmt::format("{{kind: overflow, step: {}, rank: {}, layer: {}}}", step, rank, layer);
}

struct OverflowCase {
  int hysteresis;
  std::vector<double> scales;  // used in steps 1 to 8
};

class OverflowOnOneRank : public ::testing::TestWithParam<OverflowCase> {};

// Steps 2, 3, 5 overflow, each on one other rank; the scale doubles after two good steps.
TEST_P(OverflowOnOneRank, SkipsEverywhereAndChangesNothing) {
  TrainingWorld world(tiny_config());
  TrainingRun run;
  run.ranks = 3;
  run.append = faults({overflow_at(2, 1, 0), overflow_at(3, 2, 1), overflow_at(5, 0, 0)});
  run.overrides = {"train.steps=8", "precision.compute=fp16", "precision.loss_scale.initial=1024",
                   "precision.loss_scale.growth_interval=2",
                   fmt::format("precision.loss_scale.hysteresis={}", GetParam().hysteresis)};
  for (const int stage : {0, 1, 2}) {
    SCOPED_TRACE(stage);
    TrainingRun staged = run;
    staged.overrides.push_back(fmt::format("parallel.zero_stage={}", stage));
    staged.body = [](Rank& rank) {
      const std::map<std::int64_t, int> culprits = {{2, 1}, {3, 2}, {5, 0}};
      while (rank.trainer.progress().step < rank.config.train.steps) {
        const StateHashes before = rank.hashes();
        const runtime::RunProgress progress = rank.trainer.progress();
        const runtime::StepDecision decision = rank.trainer.step();
        const std::int64_t step = progress.step + 1;
        const bool overflows = step == 2 || step == 3 || step == 5;
        EXPECT_EQ(decision.outcome, overflows ? StepOutcome::kOverflow : StepOutcome::kApplied)
            << step;
        if (overflows) {
          EXPECT_EQ(decision.overflow_rank, culprits.at(step));
        }
        EXPECT_EQ(rank.hashes() == before, overflows) << step;
        EXPECT_EQ(rank.trainer.progress().step, step);
        EXPECT_EQ(rank.trainer.progress().decision.applied_steps,
                  progress.decision.applied_steps + (overflows ? 0 : 1));
      }
    };
    const TrainingResult result = world.train(staged);
    ASSERT_FALSE(result.error) << result.message;
    std::vector<double> scales;
    std::vector<double> rates;
    std::int64_t step = 0;
    for (const auto& line : result.lines) {
      if (line["event"] != "step") continue;
      ++step;
      scales.push_back(line["loss_scale"]);
      rates.push_back(line["learning_rate"]);
      const bool overflows = step == 2 || step == 3 || step == 5;
      EXPECT_EQ(line["overflow"], overflows);
      EXPECT_EQ(line["clip_coefficient"].is_null(), overflows);
      if (step == 3) {
        EXPECT_EQ(line["overflow_bucket"], "block.1");
        EXPECT_EQ(line["overflow_tensor"], "block.1.attention.qkv.weight");
      }
    }
    EXPECT_EQ(scales, GetParam().scales);
    // Warm-up of two applied steps: 1, 2, 2, 2, then on along the cosine.
    EXPECT_EQ(rates[0], 1e-3);
    EXPECT_EQ(rates[1], 2e-3);
    EXPECT_EQ(rates[2], rates[1]);
    EXPECT_EQ(rates[3], rates[1]);
    EXPECT_EQ(rates[4], rates[5]);
    EXPECT_LT(rates[4], rates[3]);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Hysteresis, OverflowOnOneRank,
    ::testing::Values(OverflowCase{1, {1024, 1024, 512, 256, 256, 128, 128, 256}},
                      OverflowCase{2, {1024, 1024, 1024, 512, 512, 512, 512, 1024}}),
    [](const auto& each) { return fmt::format("h{}", each.param.hysteresis); });

// A skipped step takes its data with it: the rest of the run is that of a run whose data began a
// step later.
TEST(Overflow, TheDataPositionAdvances) {
  TrainingWorld world(tiny_config());
  TrainingRun run;
  run.ranks = 2;
  run.append = faults({overflow_at(1, 1, 1)});
  const TrainingResult result = world.train(run);
  std::vector<double> losses;
  for (const runtime::StepDecision& decision : result.decisions)
    losses.push_back(decision.loss);
  TrainingRun plain;
  plain.ranks = 2;
  const TrainingResult without = world.train(plain);
  EXPECT_EQ(losses[0], without.decisions[0].loss);
  // Step 2 runs on the second batch with the initial weights: another loss than either of the plain
  // run's.
  EXPECT_NE(losses[1], without.decisions[1].loss);
  EXPECT_NE(losses[1], losses[0]);
  EXPECT_THAT(result.ledger, HasSubstr("\"step\":2,\"data_position\":12,"));
}

TEST(Overflow, FullPrecisionSkipsByTheSameDecision) {
  TrainingWorld world(tiny_config());
  for (const char* compute : {"fp32", "bf16"}) {
    for (const char* sync : {"every_round", "boundary"}) {
      TrainingRun run;
      run.ranks = 2;
      run.append = faults({overflow_at(2, 1, 1)});
      run.overrides = {fmt::format("precision.compute={}", compute),
                       fmt::format("parallel.grad_sync={}", sync)};
      const TrainingResult result = world.train(run);
      ASSERT_EQ(result.decisions.size(), 4U);
      EXPECT_EQ(result.decisions[1].outcome, StepOutcome::kOverflow) << compute << sync;
      EXPECT_EQ(result.decisions[1].overflow_rank, 1);
      EXPECT_EQ(result.decisions[1].culprit.inf, 1);
      EXPECT_FALSE(std::isfinite(result.decisions[1].grad_norm));
      EXPECT_EQ(result.decisions[1].next.loss_scale.scale, 1.0);
      EXPECT_TRUE(result.decisions[2].applied());
    }
  }
}

// Every rank's own gradient is finite, but what travels in fp16 is not.
TEST(Overflow, OnTheWireOnly) {
  TrainingWorld world(tiny_config());
  TrainingRun run;
  run.ranks = 2;
  run.overrides = {"parallel.reduce_type=fp16", "precision.loss_scale.mode=static",
                   "precision.loss_scale.initial=16777216"};
  const TrainingResult result = world.train(run);
  ASSERT_EQ(result.decisions.size(), 4U);
  EXPECT_EQ(result.decisions[0].outcome, StepOutcome::kOverflow);
  EXPECT_EQ(result.decisions[0].overflow_rank, -1);
  EXPECT_TRUE(result.decisions[0].culprit.found());
}

TEST(Overflow, InARowEndsTheRunAndNamesTheLayer) {
  TrainingWorld world(tiny_config());
  std::vector<std::string> each;
  for (int step = 1; step <= 60; ++step)
    each.push_back(overflow_at(step, 1, 1));
  TrainingRun run;
  run.ranks = 2;
  run.append = faults(each);
  run.overrides = {"train.steps=60", "precision.compute=fp16", "batch.global=2"};
  run.body = [](Rank& rank) { rank.trainer.run(); };
  TrainingResult result = world.train(run);
  ASSERT_EQ(result.error, core::ErrorKind::kDiverged);
  EXPECT_THAT(result.message, HasSubstr("step 24:"));
  EXPECT_THAT(result.message, HasSubstr("rank 1, block 1 attention.qkv, 1 inf, scale 1 -> 1"));
  EXPECT_EQ(result.step_lines().size(), 24U);

  run.overrides.push_back("precision.loss_scale.overflow_patience=1000");
  result = world.train(run);
  ASSERT_EQ(result.error, core::ErrorKind::kDiverged);
  EXPECT_THAT(result.message, HasSubstr("step 50:"));
  EXPECT_THAT(result.message, HasSubstr("max_consecutive_skips"));
  EXPECT_THAT(result.message, HasSubstr("block 1 attention.qkv"));
}

TEST(Diverged, StopsEveryRankAndSavesNothing) {
  TrainingWorld world(tiny_config());
  for (const int stage : {0, 1, 2}) {
    TrainingRun run;
    run.ranks = 3;
    run.append = "fault: [{kind: nan, step: 3, rank: 2, layer: 0}]\n";
    run.overrides = {fmt::format("parallel.zero_stage={}", stage), "precision.compute=fp16"};
    run.body = [](Rank& rank) { rank.trainer.run(); };
    const TrainingResult result = world.train(run);
    ASSERT_EQ(result.error, core::ErrorKind::kDiverged);
    EXPECT_THAT(result.message, HasSubstr("step 3: the loss is not finite on rank 2"));
    const auto last = result.lines.back();
    EXPECT_EQ(last["diverged"], true);
    EXPECT_EQ(last["overflow"], false);
    EXPECT_EQ(last["applied"], false);
    EXPECT_TRUE(last["loss"].is_null());
    EXPECT_EQ(last["applied_steps"], 2);
    EXPECT_TRUE(std::filesystem::is_empty(result.output + "/checkpoints"));
  }
}

struct FlipCase {
  int stage;
  const char* compute;
  int ranks;
  int flipped;
};

std::vector<FlipCase> flip_cases() {
  std::vector<FlipCase> cases;
  for (const int stage : {0, 1, 2}) {
    for (const char* compute : {"fp32", "bf16"}) {
      for (const int ranks : {1, 2, 3}) {
        for (int flipped = 0; flipped < ranks; ++flipped)
          cases.push_back({stage, compute, ranks, flipped});
      }
    }
  }
  return cases;
}

class FlippedBit : public ::testing::TestWithParam<FlipCase> {
 protected:
  // A flip in step 2; found in the step that verifies next.
  static void expect_found(int verify_every, int found_in) {
    const FlipCase& flip = GetParam();
    TrainingWorld world(tiny_config());
    TrainingRun run;
    run.ranks = flip.ranks;
    run.append =
        fmt::format("fault: [{{kind: bitflip, step: 2, rank: {}, layer: 1}}]\n", flip.flipped);
    run.overrides = {"train.steps=7", "batch.global=6",
                     fmt::format("parallel.zero_stage={}", flip.stage),
                     fmt::format("parallel.verify_every={}", verify_every),
                     fmt::format("precision.compute={}", flip.compute)};
    run.body = [](Rank& rank) { rank.trainer.run(); };
    const TrainingResult result = world.train(run);
    ASSERT_EQ(result.error, core::ErrorKind::kCommunication) << result.message;
    EXPECT_THAT(result.message,
                HasSubstr(fmt::format("step {}: rank {} disagrees", found_in, flip.flipped)));
    EXPECT_THAT(result.message, HasSubstr("block.1"));
    EXPECT_THAT(result.message, HasSubstr("at step 2"));
    EXPECT_TRUE(std::filesystem::is_empty(result.output + "/checkpoints"));
    EXPECT_EQ(result.step_lines().size(), static_cast<std::size_t>(found_in) - 1);
  }
};

TEST_P(FlippedBit, IsFoundAtOnceWhenEveryStepVerifies) {
  expect_found(1, 2);
}
TEST_P(FlippedBit, IsFoundAtTheNextVerification) {
  expect_found(5, 5);
}
TEST_P(FlippedBit, IsFoundBeforeTheLastCheckpoint) {
  expect_found(100, 7);
}

INSTANTIATE_TEST_SUITE_P(Cases, FlippedBit, ::testing::ValuesIn(flip_cases()),
                         [](const auto& each) {
                           return fmt::format("stage{}_{}_{}ranks_rank{}", each.param.stage,
                                              each.param.compute, each.param.ranks,
                                              each.param.flipped);
                         });

// A bit in what each rank owns of some bucket, seen by its owner alone or by all after the next
// gather.
TEST(FlippedBitAnywhere, TheRightRankIsNamedWhoeverOwnsTheElement) {
  TrainingWorld world(tiny_config());
  for (const int stage : {0, 2}) {
    for (const int ranks : {2, 3}) {
      for (int flipped = 0; flipped < ranks; ++flipped) {
        for (int owner = 0; owner < ranks; ++owner) {
          SCOPED_TRACE(fmt::format("stage {}, {} ranks, rank {} in the shard of {}", stage, ranks,
                                   flipped, owner));
          TrainingRun run;
          run.ranks = ranks;
          run.overrides = {"parallel.verify_every=2", "batch.global=6",
                           fmt::format("parallel.zero_stage={}", stage)};
          run.body = [&](Rank& rank) {
            rank.trainer.step();
            rank.trainer.state().finish_gather();
            rank.communicator.barrier("before the flip");
            if (rank.number() == flipped) {
              const auto bucket = rank.trainer.state().bucket_parameters(2);
              const std::int64_t shard = bucket.elements() / ranks;
              auto* bits = static_cast<std::uint32_t*>(bucket.raw()) + owner * shard + 3;
              *bits ^= 0x8U;
            }
            rank.step_to_end();
          };
          const TrainingResult result = world.train(run);
          ASSERT_EQ(result.error, core::ErrorKind::kCommunication) << result.message;
          EXPECT_THAT(result.message, HasSubstr(fmt::format("rank {} disagrees", flipped)));
        }
      }
    }
  }
}

// Rank 1 keeps another ledger (its records leave the world size out): its chain differs from the
// second step on.
TEST(Chain, ADifferentLedgerStopsAtTheNextStep) {
  TrainingWorld world(tiny_config());
  for (const int ranks : {2, 3}) {
    TrainingRun run;
    run.ranks = ranks;
    run.overrides_of_rank = [](int rank) {
      return rank == 1 ? std::vector<std::string>{"run.reproducible=ranks"}
                       : std::vector<std::string>{};
    };
    const TrainingResult result = world.train(run);
    ASSERT_EQ(result.error, core::ErrorKind::kCommunication) << result.message;
    EXPECT_THAT(result.message, HasSubstr("step 2: rank"));
    EXPECT_THAT(result.message, HasSubstr("in chain_head"));
    EXPECT_THAT(result.message,
                HasSubstr(ranks == 3 ? "rank 1 disagrees" : "ranks 0, 1 disagree with"));
    EXPECT_EQ(result.step_lines().size(), 1U);
  }
}

TEST(Chain, ADifferentConfigurationStopsAtTheFirstStep) {
  TrainingWorld world(tiny_config());
  TrainingRun run;
  run.ranks = 3;
  run.overrides_of_rank = [](int rank) {
    return std::vector<std::string>{fmt::format("clip.threshold={}", rank == 2 ? 0.5 : 1.0)};
  };
  const TrainingResult result = world.train(run);
  ASSERT_EQ(result.error, core::ErrorKind::kCommunication) << result.message;
  EXPECT_THAT(result.message, HasSubstr("step 1: rank 2 disagrees"));
  EXPECT_THAT(result.message, HasSubstr("in config_fingerprint"));
}

}  // namespace
}  // namespace lockstep::testing
