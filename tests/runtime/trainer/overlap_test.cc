#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "runtime/metrics/set_up.h"
#include "tests/support/recording_communicator.h"
#include "tests/support/training_world.h"

// parallel.overlap: false changes when communication happens, and no bit.
namespace lockstep::testing {
namespace {

TrainingRun run_of(bool overlap, const std::string& stage, const std::string& sync, int ranks) {
  TrainingRun run;
  run.overrides = {fmt::format("parallel.overlap={}", overlap), "parallel.zero_stage=" + stage,
                   "parallel.grad_sync=" + sync, "precision.compute=bf16"};
  run.ranks = ranks;
  return run;
}

TEST(Overlap, GivesTheSameBitsAsWaiting) {
  TrainingWorld world(tiny_config());
  for (const int ranks : {2, 3}) {
    for (const char* stage : {"0", "1", "2"}) {
      for (const char* sync : {"every_round", "boundary"}) {
        SCOPED_TRACE(fmt::format("{} ranks, stage {}, {}", ranks, stage, sync));
        const TrainingResult with = world.train(run_of(true, stage, sync, ranks));
        const TrainingResult without = world.train(run_of(false, stage, sync, ranks));
        ASSERT_EQ(with.step_lines().size(), 4U) << with.message;
        EXPECT_EQ(without.step_lines(), with.step_lines());
        EXPECT_EQ(without.ledger, with.ledger);
        EXPECT_EQ(without.state, with.state);
      }
    }
  }
}

// A resume with the other value promises the same bits, too.
TEST(Overlap, IsNoPartOfWhatBitsDependOn) {
  const TrainingWorld world(tiny_config());
  const auto set_up = [&](const char* override) {
    TrainingRun run;
    run.overrides = {override};
    return runtime::hash_of_set_up(world.config_of(run), 2, 1);
  };
  EXPECT_EQ(set_up("parallel.overlap=true"), set_up("parallel.overlap=false"));
  EXPECT_NE(set_up("parallel.overlap=true"), set_up("parallel.zero_stage=1"));
}

// What a step leaves under way goes on beside the next forward: the all-gather of every bucket, or
// nothing.
TEST(Overlap, WithoutItNothingTravelsWhileRanksCompute) {
  TrainingWorld world(tiny_config());
  for (const bool overlap : {true, false}) {
    for (const char* stage : {"0", "1", "2"}) {
      SCOPED_TRACE(fmt::format("overlap {}, stage {}", overlap, stage));
      TrainingRun run = run_of(overlap, stage, "every_round", 2);
      run.connect = RecordingCommunicator::around;
      run.body = [&](Rank& rank) {
        const RecordingCommunicator& record = RecordingCommunicator::of(rank.communicator);
        int beside = 0;  // most reductions under way when another one begins
        for (int step = 0; step < 3; ++step) {
          const std::size_t before = record.launches().size();
          ASSERT_TRUE(rank.trainer.step().applied());
          const int buckets = rank.trainer.state().layout().size();
          EXPECT_EQ(record.open(), overlap && std::string(stage) != "0" ? buckets : 0);
          for (std::size_t i = before; i < record.launches().size(); ++i) {
            const RecordingCommunicator::Launch& launch = record.launches()[i];
            if (launch.collective != comm::Collective::kReduceScatter) continue;
            beside = std::max(beside, launch.open_before);
          }
        }
        if (overlap) {
          EXPECT_GT(beside, 0);
        } else {
          EXPECT_EQ(beside, 0);
        }
      };
      const TrainingResult result = world.train(run);
      EXPECT_FALSE(result.error.has_value()) << result.message;
    }
  }
}

}  // namespace
}  // namespace lockstep::testing
