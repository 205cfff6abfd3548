// What a coordinator that is killed leaves untouched. The loops are short here; scripts/soak has
// the long ones.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <random>
#include <set>
#include <thread>

#include "tests/coordinator/system/undisturbed_test.h"

namespace lockstep::testing {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

class F1_AckedSubmitSurvivesKill : public JobControlTest {};

std::string uuid(std::mt19937& random) {
  const auto word = [&] { return static_cast<unsigned>(random()) & 0xFFFFU; };
  return fmt::format("{:04x}{:04x}-{:04x}-4{:03x}-8{:03x}-{:04x}{:04x}{:04x}", word(), word(),
                     word(), word() & 0xFFFU, word() & 0xFFFU, word(), word(), word());
}

TEST_F(F1_AckedSubmitSurvivesKill, AndOneRequestIsOneRun) {
  const int loops_wanted = loops("LOCKSTEP_SUBMIT_LOOPS", 10);
  const int seed = loops("LOCKSTEP_SUBMIT_SEED", 20261121);
  SCOPED_TRACE(seed);
  std::mt19937 random(static_cast<unsigned>(seed));
  std::set<std::string> acked;
  start();
  ASSERT_EQ(job({"admin", "info"}).exit_code, 0);
  for (int i = 0; i < loops_wanted; ++i) {
    const Arguments arguments =
        submit_arguments("run" + std::to_string(i), {"--hold", "--request-id", uuid(random)});
    const auto submitting = begin_job(arguments);
    // The command itself needs a while to get to the call.
    std::this_thread::sleep_for(milliseconds(random() % 100));
    kill_coordinator();
    start();
    const CommandResult first = submitting->wait();
    const std::string run = submitted(arguments, first);
    EXPECT_EQ(submitted(arguments, job(arguments)), run) << "one request id made two runs";
    acked.insert(run);
  }
  EXPECT_EQ(acked.size(), static_cast<std::size_t>(loops_wanted));
  std::set<std::string> kept;
  const auto listed = json({"runs", "list"});
  for (const auto& run : listed)
    kept.insert(run["uid"].get<std::string>());
  EXPECT_EQ(kept, acked) << "runs were lost or doubled";
  EXPECT_EQ(listed.size(), static_cast<std::size_t>(loops_wanted)) << "none is cut off";
}

class F2_KillAtEveryCommitLeavesTrainingAlone : public Undisturbed,
                                                public ::testing::WithParamInterface<const char*> {
 protected:
  // No step took longer than a heartbeat, but for what a step may take on this machine, which
  // others may keep busy, and the second that some of them sleep.
  void expect_no_gap(const std::string& output) const {
    constexpr double kHeartbeat = 1.0;
    constexpr double kSleep = 1.0;
    constexpr double kBusier = 5.0;  // than while the undisturbed run was measured
    double slowest = 0.0;
    for (const auto& step : metrics("undisturbed", "step"))
      slowest = std::max(slowest, step["step_seconds"].get<double>());
    for (const auto& step : metrics(output, "step")) {
      const bool slept = step["step"].get<int>() % 8 == 6;
      EXPECT_LT(step["step_seconds"].get<double>(),
                kHeartbeat + kBusier * slowest + (slept ? kSleep : 0.0))
          << step.dump();
    }
  }
};

// From submit to the end, with a checkpoint, a pause and a resume on the way, and a coordinator
// that dies each time it comes to this place: in every state that a run can be in.
TEST_P(F2_KillAtEveryCommitLeavesTrainingAlone, TheCurveIsThatOfAnUndisturbedRun) {
  const std::string site = GetParam();
  const bool once = site.starts_with("engine.before_") || site == "attempts.before_fork";
  start({"--failpoints", site + "=crash"});
  const Arguments doomed = once ? Arguments{} : Arguments{"--failpoints", site + "=crash"};
  const Arguments submission = submit_arguments("run", {});
  const std::string run = submitted(submission, job_under_crashes(submission, doomed));
  const auto must = [&](const Arguments& arguments) {
    const CommandResult result = job_under_crashes(arguments, doomed);
    EXPECT_EQ(result.exit_code, 0) << arguments.front() << ": " << result.out << result.err;
  };
  must({"wait", run, "--for", "step=2"});
  // What was asked for may come after the end of so short a run, which is no failure of this test.
  job_under_crashes({"checkpoint", run}, doomed);
  if (job_under_crashes({"pause", run, "--wait"}, doomed).exit_code == 0) must({"resume", run});
  must({"wait", run});
  // A run of two attempts has some twenty commits.
  const int least = site.starts_with("store.") ? 6 : 2;
  EXPECT_GE(starts(), least) << "the place was hardly ever passed";
  if (coordinator_ended()) start();
  EXPECT_EQ(state(run), "SUCCEEDED");
  EXPECT_EQ(show(run)["restartCount"], 0) << "the coordinator's death cost an attempt";
  expect_no_gap("run");
  expect_undisturbed("run");
}

// A coordinator that comes back commits that it did, so before@3 and after@2 let each one get a
// commit further: together they die on both sides of every commit of the run.
INSTANTIATE_TEST_SUITE_P(Sites, F2_KillAtEveryCommitLeavesTrainingAlone,
                         ::testing::Values("store.before_commit@3", "store.after_commit@2",
                                           "engine.before_create", "engine.before_launch",
                                           "attempts.before_fork", "attempts.after_fork",
                                           "engine.after_launch", "engine.before_stop",
                                           "engine.after_stop", "engine.before_end"),
                         [](const auto& site) {
                           std::string name = site.param;
                           std::replace_if(
                               name.begin(), name.end(),
                               [](char c) { return c == '.' || c == '@'; }, '_');
                           return name;
                         });

// The first milliseconds of a launch: between its files, the fork and the first word of the
// supervisor. A run that may not be restarted at all still runs to its end.
class F2_KillsWhileLaunchingCostNoRestart : public JobControlTest {
 protected:
  // Waits, awake, until the attempt has files, and then for a part of the time.
  void kill_behind_launch(const std::string& run, std::chrono::microseconds behind) {
    const std::string attempts = path("state/runs/" + run + "/attempts").string();
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (access(attempts.c_str(), F_OK) != 0 && std::chrono::steady_clock::now() < give_up)
      std::this_thread::yield();
    const auto moment = std::chrono::steady_clock::now() + behind;
    while (std::chrono::steady_clock::now() < moment)
      std::this_thread::yield();
    kill_coordinator();
  }
};

TEST_F(F2_KillsWhileLaunchingCostNoRestart, AtRandomMoments) {
  const int kills = loops("LOCKSTEP_LAUNCH_KILLS", 6);
  const int seed = loops("LOCKSTEP_LAUNCH_SEED", 20261121);
  SCOPED_TRACE(seed);
  std::mt19937 random(static_cast<unsigned>(seed));
  start();
  ASSERT_EQ(job({"admin", "info"}).exit_code, 0);
  for (int i = 0; i < kills; ++i) {
    const std::string output = "run" + std::to_string(i);
    const std::string run =
        submit(output, {"--ranks", "1", "--max-restarts", "0", "--set", "train.steps=1000000",
                        "--set", "schedule.name=constant"});
    // Half of them in the first 5 ms, where most happens.
    const unsigned most = random() % 2 == 0 ? 5'000 : 50'000;
    const std::chrono::microseconds behind(random() % most);
    kill_behind_launch(run, behind);
    start();
    const CommandResult trains = job({"wait", run, "--for", "step=1", "--timeout", "100s"});
    const auto record = show(run);
    ASSERT_EQ(trains.exit_code, 0)
        << "killed " << behind.count() << " us behind the launch: " << record.dump();
    EXPECT_EQ(record["restartCount"], 0);
    EXPECT_EQ(record["currentAttempt"], 1);
    ASSERT_EQ(job({"cancel", run, "--force", "--wait"}).exit_code, 0);
    EXPECT_TRUE(processes_of(run).empty());
    std::filesystem::remove_all(path(output));
  }
}

class F12_PauseFreesSlotsOnlyWithACheckpoint : public Undisturbed {};

TEST_F(F12_PauseFreesSlotsOnlyWithACheckpoint, AndResumeIsBitIdentical) {
  std::mt19937 random(static_cast<unsigned>(loops("LOCKSTEP_PAUSE_SEED", 20261121)));
  start();
  const int times = loops("LOCKSTEP_PAUSES", 3);
  int paused = 0;
  for (int i = 0; i < times; ++i) {
    const std::string output = "run" + std::to_string(i);
    const std::string run = submit(output);
    // Seen in its metrics, which tell at once; between two sleeps, or just before one.
    wait_for_step(output, 1 + static_cast<int>(random() % 14));
    if (job({"pause", run, "--wait"}).exit_code == 0) {
      ++paused;
      const auto record = show(run);
      EXPECT_EQ(record["state"], "PAUSED");
      EXPECT_FALSE(record["latestCheckpoint"].get<std::string>().empty());
      EXPECT_TRUE(processes_of(run).empty());
      EXPECT_EQ(job({"resume", run}).exit_code, 0);
    }
    ASSERT_EQ(job({"wait", run}).exit_code, 0);
    EXPECT_EQ(show(run)["restartCount"], 0);
    expect_undisturbed(output);
    std::filesystem::remove_all(path(output));
  }
  EXPECT_GT(paused, times / 2) << "the runs are too short to be paused";
}

}  // namespace
}  // namespace lockstep::testing
