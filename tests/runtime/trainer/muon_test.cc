// optimizer.name muon in whole runs: the same bits at every number of ranks and stage, skipped
// steps, resumes, memory as planned. The comparison with torch.optim.Muon is in
// pytorch_curve_test.cc.
#include <gtest/gtest.h>

#include <string>
#include <tuple>
#include <vector>

#include "runtime/optimizer/muon_update.h"
#include "runtime/plan/memory_plan.h"
#include "runtime/plan/run_plan.h"
#include "tests/support/training_world.h"

namespace lockstep::testing {
namespace {

TrainingRun muon_run(const std::string& compute) {
  TrainingRun run;
  run.overrides = {"optimizer.name=muon",
                   "optimizer.learning_rate=0.02",
                   "optimizer.muon.adamw_learning_rate=2e-3",
                   "precision.compute=" + compute,
                   "batch.global=24",
                   "run.reproducible=ranks",
                   "parallel.verify_every=2"};
  return run;
}

TEST(Muon, SameBitsAtEveryRankCountAndStage) {
  TrainingWorld world(tiny_config());
  for (const std::string compute : {"fp32", "bf16", "fp16"}) {
    TrainingRun run = muon_run(compute);
    run.append = "fault: [{kind: overflow, step: 2, rank: 0, layer: 1}]\n";
    run.overrides.push_back(compute == "bf16" ? "optimizer.muon.ns_dtype=bf16"
                                              : "optimizer.muon.adjust=match_rms_adamw");
    if (compute == "fp16") run.overrides.push_back("model.family=llama");
    const TrainingResult alone = world.train(run);
    ASSERT_FALSE(alone.error) << alone.message;
    for (const auto& [ranks, stage] :
         {std::pair{1, 0}, {2, 2}, {3, 0}, {3, 1}, {3, 2}, {4, 2}, {8, 0}, {8, 2}}) {
      SCOPED_TRACE(fmt::format("{}, {} ranks, stage {}", compute, ranks, stage));
      TrainingRun other = run;
      other.ranks = ranks;
      other.threads = ranks == 3 ? 2 : 1;
      other.overrides.push_back(fmt::format("parallel.zero_stage={}", stage));
      const TrainingResult found = world.train(other);
      ASSERT_FALSE(found.error) << found.message;
      EXPECT_EQ(found.state, alone.state);
      EXPECT_EQ(found.step_lines(), alone.step_lines());
      EXPECT_EQ(found.ledger, alone.ledger);
    }
  }
}

// One layer on many ranks: every matrix is larger than an even share, and some ranks own none.
TEST(Muon, AMatrixMayBeLargerThanAnEvenShare) {
  TrainingWorld world(tiny_config());
  TrainingRun run = muon_run("fp32");
  run.overrides.push_back("model.layers=1");
  const TrainingResult alone = world.train(run);
  run.ranks = 12;
  const TrainingResult found = world.train(run);
  ASSERT_FALSE(found.error) << found.message;
  EXPECT_EQ(found.state, alone.state);
}

// The momentum of a skipped step stays, whatever the step held.
TEST(Muon, ASkippedStepLeavesMomentumAndWeights) {
  TrainingWorld world(tiny_config());
  TrainingRun run = muon_run("fp32");
  run.ranks = 2;
  run.append = "fault: [{kind: overflow, step: 3, rank: 1, layer: 1}]\n";
  run.body = [](Rank& rank) {
    rank.trainer.step();
    rank.trainer.step();
    const StateHashes before = rank.hashes();
    EXPECT_FALSE(rank.trainer.step().applied());
    EXPECT_EQ(rank.hashes(), before);
    EXPECT_TRUE(rank.trainer.step().applied());
    EXPECT_NE(rank.hashes(), before);
  };
  const TrainingResult result = world.train(run);
  EXPECT_FALSE(result.error) << result.message;
}

TEST(Muon, ResumesToTheSameBitsAtAnyRankCount) {
  TrainingWorld world(tiny_config());
  TrainingRun run = muon_run("bf16");
  run.ranks = 2;
  run.append = "fault: [{kind: overflow, step: 3, rank: 0, layer: 0}]\n";
  run.overrides.insert(run.overrides.end(), {"train.steps=6", "checkpoint.every_steps=3"});
  run.body = [](Rank& rank) { rank.trainer.run(); };
  const TrainingResult whole = world.train(run);
  ASSERT_FALSE(whole.error) << whole.message;
  run.resume = whole.output + "/checkpoints/step-00000003";
  for (const auto& [ranks, stage] : {std::pair{1, 0}, {3, 2}, {4, 0}}) {
    TrainingRun resumed = run;
    resumed.ranks = ranks;
    resumed.overrides.push_back(fmt::format("parallel.zero_stage={}", stage));
    const TrainingResult found = world.train(resumed);
    ASSERT_FALSE(found.error) << found.message;
    EXPECT_EQ(found.state, whole.state) << ranks << " ranks, stage " << stage;
  }
}

TEST(Muon, MemoryIsAsPlanned) {
  TrainingWorld world(tiny_config());
  for (const int ranks : {1, 3}) {
    for (const int stage : {0, 1, 2}) {
      for (const char* dtype : {"fp32", "bf16"}) {
        TrainingRun run = muon_run("bf16");
        run.ranks = ranks;
        run.overrides.push_back(fmt::format("parallel.zero_stage={}", stage));
        run.overrides.push_back(std::string("optimizer.muon.ns_dtype=") + dtype);
        run.body = [&](Rank& rank) {
          rank.trainer.run();
          const runtime::MemoryPlan plan =
              runtime::plan_memory(rank.config, ranks, 1, rank.communicator.rank());
          EXPECT_EQ(plan.total(), rank.memory.peak()) << runtime::to_table(plan, &rank.memory);
        };
        const TrainingResult result = world.train(run);
        EXPECT_FALSE(result.error) << result.message;
      }
    }
  }
}

}  // namespace
}  // namespace lockstep::testing
