#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "tests/coordinator/attempts/attempt_test.h"

// F5: a cancel leaves no process, whatever the ranks do. LOCKSTEP_CANCEL_LOOPS (default: 2) times
// each way.
namespace lockstep::coordinator {
namespace {

using nlohmann::json;
using std::chrono::steady_clock;
using ::testing::IsEmpty;

int loops() {
  const char* text = std::getenv("LOCKSTEP_CANCEL_LOOPS");
  return text == nullptr ? 2 : std::atoi(text);
}

class CancelTest : public AttemptTest {
 protected:
  // As the verb does, and the engine's next tick.
  void cancel(const LaunchSpec& run, std::int64_t grace_ms, bool force = false) {
    // As the ladder's: from SIGTERM to SIGKILL of the ranks.
    const std::int64_t hard_ms = force ? 0 : std::clamp<std::int64_t>(grace_ms, 1000, 10'000);
    graces_ = std::chrono::milliseconds(grace_ms + hard_ms);
    asked_ = steady_clock::now();
    engine_.cancel(run, grace_ms * (kSecond / 1000), force);
    engine_.tick();
  }

  // Within the time that F6 gives: both graces and five seconds.
  void expect_nothing_left(const LaunchSpec& run) {
    const AttemptStatus end = wait_for_end(run);
    EXPECT_LT(steady_clock::now() - asked_, graces_ + std::chrono::seconds(5)) << "F6";
    EXPECT_EQ(end.cleanup, "");
    EXPECT_THAT(tagged(run), IsEmpty()) << story(run);
    engine_.tick();
    EXPECT_EQ(engine_.state(run), RunState::kCancelled);
  }

 private:
  std::chrono::milliseconds graces_{0};
  steady_clock::time_point asked_;
};

// What mpirun keeps in files goes with the attempt, however that ends.
TEST_F(CancelTest, NoSessionDirectoryOfMpirunIsLeft) {
  namespace fs = std::filesystem;
  const fs::path place = state_ / "tmp";
  fs::create_directory(place);
  setenv("TMPDIR", place.c_str(), 1);
  for (const char* how : {"force", "grace", "supervisor killed"}) {
    SCOPED_TRACE(how);
    const LaunchSpec run = launch(spec(2, {}));
    const AttemptStatus status = wait_for_steps(run);
    EXPECT_FALSE(fs::is_empty(place));
    if (how == std::string("supervisor killed")) {
      kill(static_cast<pid_t>(status.supervisor_pid), SIGKILL);
      wait_for_end(run);
    } else {
      cancel(run, 100, how == std::string("force"));
      expect_nothing_left(run);
    }
    EXPECT_TRUE(fs::is_empty(place)) << *fs::directory_iterator(place);
  }
  unsetenv("TMPDIR");
}

TEST_F(CancelTest, F5_ARankThatIgnoresEverySignalButKill) {
  for (int i = 0; i < loops(); ++i) {
    const LaunchSpec run = launch(spec(2, {},
                                       {{"1", {{"ignore_term", true}, {"ignore_stop", true}}},
                                        {"0", {{"ignore_term", true}, {"ignore_stop", true}}}}));
    wait_for_steps(run);
    cancel(run, 100);
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
    cancel(run, 3000);
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
    cancel(run, 300);
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
    cancel(run, 3000);
    expect_nothing_left(run);
  }
}

TEST_F(CancelTest, F5_WhileItStarts) {
  for (int i = 0; i < loops(); ++i) {
    const LaunchSpec run = launch(spec(2, {{"ignore_term", true}, {"ignore_stop", true}}));
    std::this_thread::sleep_for(std::chrono::milliseconds(i * 37 % 300));
    cancel(run, 100);
    expect_nothing_left(run);
  }
}

TEST_F(CancelTest, F5_WhenTheSupervisorIsKilledToo) {
  for (int i = 0; i < loops(); ++i) {
    const LaunchSpec run =
        launch(spec(2, {{"grandchild", "session"}, {"ignore_term", true}, {"ignore_stop", true}}));
    const AttemptStatus running = wait_for_steps(run);
    cancel(run, 60'000);
    auto supervisor = ProcessHandle::open(static_cast<pid_t>(running.supervisor_pid));
    ASSERT_TRUE(supervisor && supervisor->send(SIGKILL));
    expect_nothing_left(run);
    EXPECT_EQ(attempts_.poll(run.attempt).exit.category, FailureCategory::kCoordinator);
  }
}

TEST_F(CancelTest, F6_AForcedStopIsOverInSeconds) {
  const LaunchSpec run = launch(spec(2, {{"ignore_term", true}, {"ignore_stop", true}}));
  wait_for_steps(run);
  cancel(run, 60'000);
  cancel(run, 0, true);
  expect_nothing_left(run);
}

// The order is durable before anything is done about it, and the next coordinator goes on with it.
TEST_F(CancelTest, F5_WhileTheCoordinatorIsKilled) {
  for (int i = 0; i < loops(); ++i) {
    const LaunchSpec run =
        launch(spec(2, {{"grandchild", "session"}, {"ignore_term", true}, {"ignore_stop", true}}));
    if (i % 3 != 2) wait_for_steps(run);
    engine_.cancel(run, 100 * (kSecond / 1000));
    if (i % 2 == 0) engine_.tick();  // the stop was handed over, or was not yet
    engine_.restart();
    cancel(run, 100);  // whoever got no answer asks again
    engine_.restart();
    expect_nothing_left(run);
  }
}

}  // namespace
}  // namespace lockstep::coordinator
