// A file system without room is an error that names the file, not a run that loses records.
#include <gmock/gmock.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "tests/support/training_test.h"

namespace lockstep {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using testing::CommandResult;
using ::testing::HasSubstr;

class FullDiskTest : public testing::TrainingTest {
 protected:
  void TearDown() override {
    if (mounted_) umount2(path("small").c_str(), MNT_DETACH);
    TrainingTest::TearDown();
  }

  // A file system of this size at small/; false, with the reason in errno, without the right to it.
  bool mount_small(const char* size) {
    std::filesystem::create_directory(path("small"));
    const std::string options = std::string("size=") + size;
    mounted_ = mount("tmpfs", path("small").c_str(), "tmpfs", 0, options.c_str()) == 0;
    return mounted_;
  }

 private:
  bool mounted_ = false;
};

TEST_F(FullDiskTest, NoRoomForACheckpoint) {
  if (!mount_small("1m")) GTEST_SKIP() << "cannot mount a tmpfs: " << std::strerror(errno);
  for (const int ranks : {1, 2}) {
    const std::string output = "small/ranks" + std::to_string(ranks);
    const CommandResult result = train({.ranks = ranks, .output = output});
    EXPECT_EQ(result.exit_code, 3);
    EXPECT_THAT(result.err, AllOf(HasSubstr("no room for a checkpoint"),
                                  HasSubstr(path(output).string() + "/checkpoints")));
    EXPECT_EQ(metrics(output, "step").size(), 20U);
  }
}

// U1: no space at the start is told as such.
TEST_F(FullDiskTest, NoRoomAtTheStart) {
  if (!mount_small("64k")) GTEST_SKIP() << "cannot mount a tmpfs: " << std::strerror(errno);
  directory_.write("small/fill", std::string(1 << 20, 'x'));
  for (const int ranks : {1, 2}) {
    const CommandResult result =
        train({.ranks = ranks, .output = "small/ranks" + std::to_string(ranks)});
    EXPECT_EQ(result.exit_code, 3) << result.err;
    EXPECT_THAT(result.err, AllOf(HasSubstr("run.output"), HasSubstr("No space left on device")));
  }
}

// D10: what checkpoint.keep removes behind a save goes before it where there is no room; what is
// kept does not, and is named.
TEST_F(FullDiskTest, MakesRoomForACheckpoint) {
  if (!mount_small("2m")) GTEST_SKIP() << "cannot mount a tmpfs: " << std::strerror(errno);
  const std::vector<std::string> set = {"checkpoint.every_steps=2", "data.validation=null"};
  std::vector<std::string> two = set;
  two.emplace_back("checkpoint.keep=2");
  must_train({.set = two, .output = "small/run"});
  EXPECT_FALSE(std::filesystem::exists(checkpoint_directory("small/run", 16)));
  EXPECT_TRUE(std::filesystem::exists(checkpoint_directory("small/run", 18)));
  std::filesystem::remove_all(path("small/run"));
  const CommandResult result = train({.set = set, .output = "small/run"});
  EXPECT_EQ(result.exit_code, 3) << result.err;
  EXPECT_THAT(result.err, AllOf(HasSubstr("MiB free, found 1."), HasSubstr("what may go there"),
                                HasSubstr("step-00000002 (0.")));
}

TEST_F(FullDiskTest, NoRoomForARecord) {
  if (!mount_small("256k")) GTEST_SKIP() << "cannot mount a tmpfs: " << std::strerror(errno);
  for (const int ranks : {1, 2}) {
    const CommandResult result =
        train({.set = {"train.steps=3000"}, .ranks = ranks, .output = "small/run"});
    EXPECT_EQ(result.exit_code, 3) << result.err;
    const std::string run = path("small/run").string();
    EXPECT_THAT(result.err,
                AllOf(AnyOf(HasSubstr(run + "/metrics.jsonl"), HasSubstr(run + "/ledger.jsonl")),
                      HasSubstr("No space left on device")));
    std::filesystem::remove_all(path("small/run"));
  }
}

}  // namespace
}  // namespace lockstep
