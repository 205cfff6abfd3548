// F9: a rank that is stuck is found and named by the coordinator itself, in real training.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <thread>

#include "tests/coordinator/system/undisturbed_test.h"

namespace lockstep::testing {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;
using ::testing::HasSubstr;

class F9_AStuckRankIsFound : public Undisturbed {
 protected:
  // Steps take milliseconds here, so the floor holds.
  static constexpr seconds kLimit{30};
  // Until a heartbeat, a look at it, the examination of the ranks and its record are through.
  static constexpr seconds kMore{8};

  bool was_found(const std::string& run) const {
    return job({"runs", "events", run}).out.find("stopping") != std::string::npos;
  }
};

// Two at once, since each takes half a minute: in one, rank 1 is stopped by a signal; in the other
// it goes round in a loop for ever.
TEST_F(F9_AStuckRankIsFound, WithinHalfAMinuteAndNamedAndExaminedBeforeItsEnd) {
  start();
  const std::string stopped = submit("stopped");
  wait_for_step("stopped", 12);
  kill(rank_of(stopped, 1), SIGSTOP);
  const auto begin = steady_clock::now();
  const std::string loops =
      submit("loops", {"--max-restarts", "-1", "--set", "fault=[{kind: hang, step: 12, rank: 1}]"});
  std::vector<std::string> stuck = {stopped, loops};
  while (!stuck.empty() && steady_clock::now() < begin + seconds(120)) {
    std::erase_if(stuck, [&](const std::string& run) {
      if (!was_found(run)) return false;
      EXPECT_LT(steady_clock::now() - begin, kLimit + kMore + (run == loops ? kMore : seconds(0)));
      EXPECT_GT(steady_clock::now() - begin, kLimit - seconds(2));
      return true;
    });
    std::this_thread::sleep_for(milliseconds(200));
  }
  EXPECT_TRUE(stuck.empty());

  EXPECT_EQ(job({"wait", loops}).exit_code, 1);
  const auto failed = show(loops)["result"];
  EXPECT_EQ(failed["category"], "HANG") << failed.dump();
  EXPECT_EQ(failed["failingRank"], 1) << failed.dump();
  EXPECT_THAT(job({"explain", loops}).out, HasSubstr("rank 1 has not entered"));

  // A hang is tried once more, from the newest whole checkpoint.
  EXPECT_EQ(job({"wait", stopped}).exit_code, 0);
  EXPECT_EQ(show(stopped)["restartCount"], 1);
  expect_undisturbed("stopped");
  for (const std::string& run : {stopped, loops}) {
    const std::string dump = text("state/runs/" + run + "/attempts/1/stacks.txt");
    EXPECT_THAT(dump, HasSubstr("=== rank 1")) << run;
    const std::string told = text("state/runs/" + run + "/attempts/1/spool.jsonl");
    EXPECT_LT(told.find("\"stuck\""), told.find("\"signal_sent\"")) << told;
  }
}

}  // namespace
}  // namespace lockstep::testing
