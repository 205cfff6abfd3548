// How runs start where the machine is not what it seems: fewer cores than shown, no home, a batch
// system that does not connect its tasks, a terminal.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include "tests/support/training_test.h"

namespace lockstep {
namespace {

using ::testing::AllOf;
using testing::CommandResult;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::TrainingCall;

class LaunchTest : public testing::TrainingTest {
 protected:
  // With variables as `env` takes them.
  CommandResult train_with(const TrainingCall& call, const std::string& variables,
                           const std::string& before = "") const {
    std::string words = before + " env " + variables;
    for (const std::string& word : command_line(call))
      words += " '" + word + "'";
    return testing::run_command({"bash", "-c", words}, command_options(call));
  }
};

TEST_F(LaunchTest, D14_OmpNumThreadsHasBounds) {
  for (const char* wrong : {"0", "-1", "many", "4097", "2x"}) {
    const CommandResult result = train_with({}, fmt::format("OMP_NUM_THREADS={}", wrong));
    EXPECT_EQ(result.exit_code, 2) << wrong << "\n" << result.err;
    EXPECT_THAT(result.err, AllOf(HasSubstr("OMP_NUM_THREADS"), HasSubstr("4096")));
  }
  // The threads of nested levels follow a comma.
  const CommandResult nested = train_with({}, "OMP_NUM_THREADS=1,2");
  EXPECT_EQ(nested.exit_code, 0) << nested.err;
  EXPECT_THAT(nested.err, HasSubstr("1 rank (self) x 1 thread "));
}

TEST_F(LaunchTest, SlurmTasksThatNothingConnectsAreRefused) {
  const std::string job = "SLURM_JOB_ID=1 SLURM_NTASKS=4 SLURM_PROCID=0";
  const CommandResult refused = train_with({}, job);
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_THAT(refused.err, AllOf(HasSubstr("4 tasks"), HasSubstr("srun --mpi=pmix")));
  TrainingCall alone{.more = {"--ranks", "1"}};
  EXPECT_EQ(train_with(alone, job).exit_code, 0);
}

TEST_F(LaunchTest, W8_CoresAreThoseThatMayBeUsed) {
  std::ofstream(path("online")) << "0-63\n";
  const std::string mount = fmt::format(
      "unshare -m sh -c 'mount --bind {} /sys/devices/system/cpu/online && exec \"$0\" \"$@\"'",
      path("online").string());
  if (testing::run_command({"bash", "-c", mount + " true"}).exit_code != 0) {
    GTEST_SKIP() << "needs to mount a file: run it as root";
  }
  const int cores = std::atoi(testing::run_command({"nproc"}).out.c_str());
  for (const int ranks : {2, 4}) {
    TrainingCall call{.ranks = ranks, .output = fmt::format("run{}", ranks)};
    const CommandResult result = train_with(call, "-u OMP_NUM_THREADS", mount);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_THAT(result.err, HasSubstr(fmt::format("{} ranks (mpi) x {} thread", ranks,
                                                  std::max(1, cores / ranks))));
  }
}

TEST_F(LaunchTest, U5_AnUnknownUserWithoutHome) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root to become another user";
  ASSERT_EQ(chmod(path("").c_str(), 0777), 0);
  TrainingCall call{.ranks = 2};
  const CommandResult result =
      train_with(call, "-u HOME", "setpriv --reuid 45678 --regid 45678 --clear-groups");
  EXPECT_EQ(result.exit_code, 0) << result.err;
}

TEST_F(LaunchTest, RanksShowTheProgressBarOfOneRank) {
  for (const int ranks : {1, 2}) {
    TrainingCall call{.ranks = ranks, .output = fmt::format("run{}", ranks)};
    std::string words;
    for (const std::string& word : command_line(call))
      words += word + " ";
    const CommandResult result =
        testing::run_command({"script", "-qec", words, "/dev/null"}, command_options(call));
    EXPECT_EQ(result.exit_code, 0) << result.out;
    EXPECT_THAT(result.out, AllOf(HasSubstr("20/20 loss"), HasSubstr("ETA 0:00")));
    EXPECT_THAT(result.out, Not(HasSubstr("step 20/20")));
  }
}

}  // namespace
}  // namespace lockstep
