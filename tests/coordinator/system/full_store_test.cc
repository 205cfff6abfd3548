// F14: without room for its store the coordinator takes nothing new and says so; what runs goes on,
// and it recovers alone.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/mount.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <thread>

#include "tests/coordinator/server/raw_call.h"
#include "tests/coordinator/system/job_control_test.h"

namespace lockstep::testing {
namespace {

using ::testing::HasSubstr;

class F14_FullStore : public JobControlTest {
 protected:
  void TearDown() override {
    JobControlTest::TearDown();
    if (mounted_) umount2(path("state").c_str(), MNT_DETACH);
  }

  // A small file system for the coordinator's state; false, with the reason in errno, without the
  // right to it.
  bool mount_state() {
    std::filesystem::create_directory(path("state"));
    mounted_ = mount("tmpfs", path("state").c_str(), "tmpfs", 0, "size=8m,mode=0700") == 0;
    return mounted_;
  }
  void fill() const {
    std::ofstream filler(path("state/filler"), std::ios::binary);
    const std::string block(4096, 'x');
    while (filler.write(block.data(), 4096).flush()) {
    }
  }

  // Of grpc.health.v1: 1 is SERVING, 2 NOT_SERVING; 0: it does not answer.
  int health() const {
    const auto channel =
        grpc::CreateChannel("unix:" + path("socket").string(), grpc::InsecureChannelCredentials());
    const auto answer = coordinator::testing::raw_call(channel, "/grpc.health.v1.Health/Check", "");
    return answer.status.ok() && answer.bytes.size() == 2 ? answer.bytes[1] : 0;
  }
  bool becomes(int status) const {
    for (int i = 0; i < 100 && health() != status; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    return health() == status;
  }

 private:
  bool mounted_ = false;
};

TEST_F(F14_FullStore, RefusesWhatIsNewAndLeavesAloneWhatRuns) {
  if (!mount_state()) GTEST_SKIP() << "cannot mount a tmpfs: " << std::strerror(errno);
  start();
  std::string sleeps = "fault=[";
  for (int step = 20; step < 60; step += 4)
    sleeps += fmt::format("{{kind: slow, step: {}}}, ", step);
  const std::string run = submit("run", {"--set", sleeps + "]"});
  ASSERT_EQ(job({"wait", run, "--for", "step=3"}).exit_code, 0);
  EXPECT_TRUE(becomes(1));

  fill();
  // A commit may still find a hole; the next one does not.
  CommandResult refused;
  for (int i = 0; i < 20 && refused.exit_code != 7; ++i) {
    Arguments arguments = submit_arguments("more" + std::to_string(i), {"--hold"});
    refused = job(arguments);
    if (refused.exit_code == 0) submitted(arguments, refused);
  }
  EXPECT_EQ(refused.exit_code, 7) << refused.err;
  EXPECT_THAT(refused.err, HasSubstr("nothing was changed"));
  EXPECT_TRUE(becomes(2)) << "NOT_SERVING";
  EXPECT_EQ(job({"runs", "list"}).exit_code, 0) << "what is known is still told";
  wait_for_step("run", 60);

  std::filesystem::remove(path("state/filler"));
  EXPECT_TRUE(becomes(1)) << "it recovers alone";
  EXPECT_EQ(job({"wait", run}).exit_code, 0);
  EXPECT_EQ(show(run)["restartCount"], 0);
  const std::string after = submit("after");
  EXPECT_EQ(job({"wait", after}).exit_code, 0);
}

// Cancels and pauses work on a full disk, ends of attempts are written, and a coordinator that starts
// there serves reads: the room for that was kept.
TEST_F(F14_FullStore, CancelAndPauseWorkAndAStartServesReads) {
  if (!mount_state()) GTEST_SKIP() << "cannot mount a tmpfs: " << std::strerror(errno);
  start();
  const Arguments endless = {"--set", "train.steps=1000000", "--set", "schedule.name=constant"};
  const std::string paused = submit("paused", endless);
  const std::string cancelled = submit("cancelled", endless);
  for (const std::string& run : {paused, cancelled})
    ASSERT_EQ(job({"wait", run, "--for", "step=3"}).exit_code, 0);
  fill();
  kill_coordinator();
  start();
  EXPECT_EQ(job({"runs", "list"}).exit_code, 0);
  EXPECT_EQ(state(paused), "RUNNING");
  const CommandResult pause = job({"pause", paused, "--wait"});
  EXPECT_EQ(pause.exit_code, 0) << pause.out << pause.err;
  EXPECT_EQ(state(paused), "PAUSED");
  const CommandResult cancel = job({"cancel", cancelled, "--wait"});
  EXPECT_EQ(cancel.exit_code, 0) << cancel.out << cancel.err;
  EXPECT_EQ(state(cancelled), "CANCELLED");
  EXPECT_TRUE(processes_of(cancelled).empty());
  Arguments arguments = submit_arguments("more", {"--hold"});
  CommandResult refused = job(arguments);
  if (refused.exit_code == 0) submitted(arguments, refused);  // a hole in the log of the store
  EXPECT_EQ(job({"admin", "check"}).exit_code, 0);
  std::filesystem::remove(path("state/filler"));
  EXPECT_TRUE(becomes(1)) << "it recovers alone";
}

}  // namespace
}  // namespace lockstep::testing
