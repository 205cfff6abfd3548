// A rank without memory: all ranks end with 6 and say which, or train on with smaller
// micro-batches.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <cmath>

#include "tests/support/training_test.h"

namespace lockstep {
namespace {

using ::testing::AllOf;
using testing::CommandResult;
using ::testing::HasSubstr;
using testing::Launch;
using testing::TrainingCall;

class OutOfMemoryTest : public testing::TrainingTest {
 protected:
  // The exit records of all ranks: code 6, and a message with all of these in it.
  void expect_all_out_of_memory(int ranks, const std::vector<std::string>& words) const {
    for (int rank = 0; rank < ranks; ++rank) {
      const auto record =
          nlohmann::json::parse(text(fmt::format("run/exit/rank-{:04}.json", rank)));
      EXPECT_EQ(record["exit_code"], 6) << record.dump(2);
      for (const std::string& word : words)
        EXPECT_THAT(record["message"].get<std::string>(), HasSubstr(word)) << "rank " << rank;
    }
  }
  std::vector<double> losses(const std::string& output) const {
    std::vector<double> losses;
    for (const auto& line : metrics(output, "step"))
      losses.push_back(line["loss"]);
    return losses;
  }
};

// ulimit -v on one rank of three; the model needs several GiB of address space.
TEST_F(OutOfMemoryTest, ALimitedRankUnderMpirun) {
  TrainingCall call{
      .set = {"model.context=256", "model.vocab=16384", "batch.global=384", "batch.micro=128"},
      .ranks = 3,
      .launch = Launch::kMpirun};
  std::vector<std::string> command = command_line(call);
  std::string script =
      "if [ \"$OMPI_COMM_WORLD_RANK\" = 1 ]; then ulimit -v 2000000; fi; exec \"$@\"";
  const auto binary = std::find_if(command.begin(), command.end(),
                                   [](const auto& word) { return word.ends_with("/lockstep"); });
  ASSERT_NE(binary, command.end());
  command.insert(binary, {"sh", "-c", script, "sh"});
  const CommandResult result = testing::run_command(command, command_options(call));
  EXPECT_EQ(result.exit_code, 6) << result.err;
  EXPECT_THAT(result.err, AllOf(HasSubstr("rank 1 (host "), HasSubstr("ulimit -v"),
                                HasSubstr("logits"), HasSubstr("what would fit: batch.micro=")));
  expect_all_out_of_memory(3, {"rank 1 (host ", "ulimit -v"});
}

TEST_F(OutOfMemoryTest, AModelThatNoMachineHolds) {
  const CommandResult result =
      train({.set = {"model.width=1048576", "model.layers=100"}, .ranks = 2});
  EXPECT_EQ(result.exit_code, 6) << result.err;
  EXPECT_THAT(result.err, HasSubstr("it takes a smaller model"));
  expect_all_out_of_memory(2, {"rank 0 (host "});
}

TEST_F(OutOfMemoryTest, AnAllocationThatFailsWithinAStep) {
  const CommandResult result =
      train({.set = {"fault=[{kind: oom, step: 3, rank: 1}]"}, .ranks = 3});
  EXPECT_EQ(result.exit_code, 6) << result.err;
  expect_all_out_of_memory(3, {"memory ran out in an allocation", "after step 2"});
  const auto other = nlohmann::json::parse(text("run/exit/rank-0002.json"));
  EXPECT_THAT(other["message"].get<std::string>(), HasSubstr("rank 1 (host "));
}

TEST_F(OutOfMemoryTest, HalvingTheMicroBatch) {
  const std::vector<std::string> base = {"batch.micro=8", "batch.global=48"};
  must_train({.set = base, .ranks = 2, .output = "whole"});
  const auto memory = metrics("whole", "memory").front();
  const double mebibytes = memory["planned_bytes"].get<double>() / 1048576.0;

  TrainingCall call{.set = base, .ranks = 2};
  call.set.push_back(fmt::format("memory.limit_mib={}", 0.7 * mebibytes));
  EXPECT_EQ(train(call).exit_code, 6);

  call.output = "halved";
  call.set.emplace_back("memory.on_exhausted=halve_micro");
  const CommandResult result = train(call);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("trying batch.micro 4 with 6 rounds"));
  const auto health = metrics("halved", "health");
  ASSERT_EQ(health.size(), 1U);
  EXPECT_EQ(health.front()["kind"], "micro_batch_halved");
  const int micro = health.front()["micro"];
  EXPECT_LT(micro, 8);
  EXPECT_EQ(health.front()["rounds"], 24 / micro);
  EXPECT_THAT(text("halved/config.yaml"), HasSubstr(fmt::format("micro: {}", micro)));
  EXPECT_LE(metrics("halved", "memory").front()["peak_bytes"],
            0.7 * memory["peak_bytes"].get<double>());

  const std::vector<double> expected = losses("whole");
  const std::vector<double> found = losses("halved");
  ASSERT_EQ(expected.size(), found.size());
  for (std::size_t i = 0; i < expected.size(); ++i)
    EXPECT_NEAR(found[i], expected[i], 1e-5 * expected[i]) << "step " << i + 1;

  // Going on with the memory that was missing: the change is told.
  must_train({.set = {"batch.micro=8", "batch.global=48", "train.steps=22"},
              .ranks = 2,
              .output = "halved",
              .more = {"--resume", "auto"}});
  const std::string changed = metrics("halved", "resume").front()["changed"].dump();
  EXPECT_THAT(changed, AllOf(HasSubstr("batch.micro"), HasSubstr(std::to_string(micro))));
}

TEST_F(OutOfMemoryTest, HalvingIsRefusedUnderReproducibleRanks) {
  const CommandResult result =
      train({.set = {"memory.on_exhausted=halve_micro", "run.reproducible=ranks"}});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("halve_micro changes batch.micro, and with it the bits"));
}

}  // namespace
}  // namespace lockstep
