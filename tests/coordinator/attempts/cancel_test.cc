#include <gtest/gtest.h>
#include <signal.h>

#include <cstdlib>

#include "tests/coordinator/attempts/attempt_test.h"

// F5: a cancel leaves no process, whatever the ranks do. LOCKSTEP_CANCEL_LOOPS (default: 2) times
// each way.
namespace lockstep::launcher::coordinator {
namespace {

using nlohmann::json;
using ::testing::IsEmpty;

int loops() {
  const char* text = std::getenv("LOCKSTEP_CANCEL_LOOPS");
  return text == nullptr ? 2 : std::atoi(text);
}

StopRequest with_grace(std::int64_t milliseconds) {
  StopRequest request;
  request.grace_ns = milliseconds * (kSecond / 1000);
  return request;
}

class CancelTest : public AttemptTest {
 protected:
  void expect_nothing_left(const LaunchSpec& run) {
    const AttemptStatus end = wait_for_end(run);
    EXPECT_EQ(end.cleanup, "");
    EXPECT_THAT(tagged(run), IsEmpty()) << story(run);
  }
};

TEST_F(CancelTest, F5_ARankThatIgnoresEverySignalButKill) {
  for (int i = 0; i < loops(); ++i) {
    const LaunchSpec run = launch(spec(2, {},
                                       {{"1", {{"ignore_term", true}, {"ignore_stop", true}}},
                                        {"0", {{"ignore_term", true}, {"ignore_stop", true}}}}));
    wait_for_steps(run);
    attempts_.stop(run.attempt, with_grace(100));
    expect_nothing_left(run);
    const AttemptStatus end = attempts_.poll(run.attempt);
    EXPECT_EQ(end.exit.category, FailureCategory::kStopped) << story(run);
    EXPECT_NE(end.exit.code, 7) << "it did not stop by itself";
  }
}

TEST_F(CancelTest, F5_AGrandchildInASessionOfItsOwn) {
  for (int i = 0; i < loops(); ++i) {
    const LaunchSpec run = launch(spec(2, {{"grandchild", "session"}}));
    wait_for_steps(run);
    EXPECT_EQ(tagged(run).size(), 5U) << "mpirun, two ranks and a grandchild of each";
    attempts_.stop(run.attempt, with_grace(3000));
    expect_nothing_left(run);
    EXPECT_EQ(attempts_.poll(run.attempt).exit.code, 7) << story(run);
  }
}

TEST_F(CancelTest, F5_ARankThatIsStopped) {
  for (int i = 0; i < loops(); ++i) {
    const LaunchSpec run =
        launch(spec(2, {}, {{"0", {{"signal_after_ms", 50}, {"signal", SIGSTOP}}}}));
    const AttemptStatus running = wait_for_steps(run);
    wait_until_stopped_by_signal(run, running.ranks.at(0).pid);
    attempts_.stop(run.attempt, with_grace(300));
    expect_nothing_left(run);
  }
}

TEST_F(CancelTest, F5_MpirunIsKilledFirst) {
  for (int i = 0; i < loops(); ++i) {
    const LaunchSpec run =
        launch(spec(2, {{"grandchild", "session"}, {"ignore_term", true}, {"ignore_stop", true}}));
    wait_for_steps(run);
    const std::vector<RankProcess> ranks = attempts_.poll(run.attempt).ranks;
    ASSERT_EQ(ranks.size(), 2U);
    const auto stat = read_stat(static_cast<pid_t>(ranks[0].pid));
    ASSERT_TRUE(stat);
    auto mpirun = ProcessHandle::open(stat->parent);
    ASSERT_TRUE(mpirun && mpirun->send(SIGKILL));
    attempts_.stop(run.attempt, with_grace(3000));
    expect_nothing_left(run);
  }
}

TEST_F(CancelTest, F5_WhileItStarts) {
  for (int i = 0; i < loops(); ++i) {
    const LaunchSpec run = launch(spec(2, {{"ignore_term", true}, {"ignore_stop", true}}));
    std::this_thread::sleep_for(std::chrono::milliseconds(i * 37 % 300));
    EXPECT_EQ(attempts_.stop(run.attempt, with_grace(100)), StopAnswer::kAccepted);
    expect_nothing_left(run);
  }
}

TEST_F(CancelTest, F5_WhenTheSupervisorIsKilledToo) {
  for (int i = 0; i < loops(); ++i) {
    const LaunchSpec run =
        launch(spec(2, {{"grandchild", "session"}, {"ignore_term", true}, {"ignore_stop", true}}));
    const AttemptStatus running = wait_for_steps(run);
    attempts_.stop(run.attempt, with_grace(60'000));
    auto supervisor = ProcessHandle::open(static_cast<pid_t>(running.supervisor_pid));
    ASSERT_TRUE(supervisor && supervisor->send(SIGKILL));
    expect_nothing_left(run);
    EXPECT_EQ(attempts_.poll(run.attempt).exit.category, FailureCategory::kCoordinator);
  }
}

TEST_F(CancelTest, F6_AForcedStopIsOverInSeconds) {
  const LaunchSpec run = launch(spec(2, {{"ignore_term", true}, {"ignore_stop", true}}));
  wait_for_steps(run);
  attempts_.stop(run.attempt, with_grace(60'000));
  StopRequest force;
  force.force = true;
  const auto begin = std::chrono::steady_clock::now();
  attempts_.stop(run.attempt, force);
  expect_nothing_left(run);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
}

}  // namespace
}  // namespace lockstep::launcher::coordinator
