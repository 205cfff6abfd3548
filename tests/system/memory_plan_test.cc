// `lockstep plan` predicts what the allocator of a run counts at its peak.
#include <fmt/format.h>

#include <cmath>
#include <regex>

#include "tests/support/training_test.h"

namespace lockstep {
namespace {

using testing::CommandResult;
using testing::TrainingCall;

struct PlannedRun {
  const char* family;
  const char* compute;
  int stage;
  int ranks;
};

class MemoryPlanTest : public testing::TrainingTest,
                       public ::testing::WithParamInterface<PlannedRun> {
 protected:
  std::vector<std::string> settings() const {
    return {fmt::format("model.family={}", GetParam().family),
            fmt::format("precision.compute={}", GetParam().compute),
            fmt::format("parallel.zero_stage={}", GetParam().stage),
            "model.width=128",
            "model.context=32",
            "batch.global=8",
            "batch.micro=2",
            "train.steps=3",
            "schedule.warmup_steps=1"};
  }
};

TEST_P(MemoryPlanTest, AgreesWithThePeak) {
  const TrainingCall call{.set = settings(), .ranks = GetParam().ranks};
  std::vector<std::string> arguments = {"plan",    path("config.yaml").string(),    "-o", "json",
                                        "--ranks", std::to_string(GetParam().ranks)};
  for (const std::string& set : call.set)
    arguments.insert(arguments.end(), {"--set", set});
  const CommandResult plan = lockstep(arguments);
  ASSERT_EQ(plan.exit_code, 0) << plan.err;
  const double planned =
      nlohmann::json::parse(plan.out)["bytes_per_rank"].get<double>() / 1048576.0;

  const CommandResult run = train(call);
  ASSERT_EQ(run.exit_code, 0) << run.err;
  std::smatch total;
  const std::regex pattern(R"(\ntotal +([0-9.]+) +([0-9.]+)\n)");
  ASSERT_TRUE(std::regex_search(run.err, total, pattern)) << run.err;
  EXPECT_NEAR(std::stod(total[1]), planned, 0.006) << "the run's own prediction";
  EXPECT_NEAR(std::stod(total[2]), planned, 0.05 * planned) << run.err;
}

INSTANTIATE_TEST_SUITE_P(
    Runs, MemoryPlanTest,
    ::testing::Values(PlannedRun{"gpt", "fp32", 2, 1}, PlannedRun{"gpt", "fp32", 2, 2},
                      PlannedRun{"gpt", "bf16", 2, 4}, PlannedRun{"llama", "fp16", 2, 2},
                      PlannedRun{"llama", "bf16", 1, 2}, PlannedRun{"gpt", "fp16", 0, 2}),
    [](const auto& one) {
      return fmt::format("{}_{}_stage{}_ranks{}", one.param.family, one.param.compute,
                         one.param.stage, one.param.ranks);
    });

}  // namespace
}  // namespace lockstep
