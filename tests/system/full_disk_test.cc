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
