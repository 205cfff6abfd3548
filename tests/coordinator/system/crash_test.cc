// What a coordinator that is killed leaves untouched. The loops are short here; scripts/soak has
// the long ones.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "tests/coordinator/system/job_control_test.h"

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
  std::map<std::string, std::string> run_of_request;
  start();
  ASSERT_EQ(job({"admin", "info"}).exit_code, 0);
  for (int i = 0; i < loops_wanted; ++i) {
    const std::string request = uuid(random);
    const Arguments arguments =
        submit_arguments("run" + std::to_string(i), {"--hold", "--request-id", request});
    const auto submitting = begin_job(arguments);
    // The command itself needs a while to get to the call.
    std::this_thread::sleep_for(milliseconds(random() % 100));
    kill_coordinator();
    start();
    const CommandResult first = submitting->wait();
    ASSERT_EQ(first.exit_code, 0) << first.err;
    const CommandResult again = job(arguments);
    ASSERT_EQ(again.exit_code, 0) << again.err;
    EXPECT_EQ(again.out, first.out) << "one request id made two runs";
    run_of_request[request] = first.out;
  }
  std::set<std::string> acked;
  for (const auto& [request, run] : run_of_request)
    acked.insert(run);
  std::set<std::string> kept;
  const auto listed = json({"runs", "list", "--limit", "5000"});
  for (const auto& run : listed["runs"])
    kept.insert(run["name"].get<std::string>() + "\n");
  EXPECT_EQ(kept, acked) << "runs were lost or doubled";
  EXPECT_EQ(listed["totalSize"], loops_wanted);
}

// Runs whose curve is compared with that of an undisturbed one.
class Undisturbed : public JobControlTest {
 protected:
  static constexpr int kSteps = 60;

  void SetUp() override {
    JobControlTest::SetUp();
    must_train({.ranks = 2, .output = "undisturbed"});
    // A rank that sleeps for a second changes nothing, but leaves the time to disturb the run.
    directory_.write("config.yaml", text("config.yaml") + R"(
fault: [{kind: slow, step: 6}, {kind: slow, step: 14}, {kind: slow, step: 22, rank: 1},
        {kind: slow, step: 30}, {kind: slow, step: 38}, {kind: slow, step: 46, rank: 1}]
)");
  }
  void expect_undisturbed(const std::string& output) const {
    expect_same_run(output, "undisturbed", kSteps);
  }
};

class F2_KillAtEveryCommitLeavesTrainingAlone : public Undisturbed,
                                                public ::testing::WithParamInterface<const char*> {
};

// From submit to the end, with a checkpoint, a pause and a resume on the way, and a coordinator
// that dies each time it comes to this place: in every state that a run can be in.
TEST_P(F2_KillAtEveryCommitLeavesTrainingAlone, TheCurveIsThatOfAnUndisturbedRun) {
  const std::string site = GetParam();
  const bool once = site.starts_with("engine.before_");
  start({"--failpoints", site + "=crash"});
  const Arguments doomed = once ? Arguments{} : Arguments{"--failpoints", site + "=crash"};
  const CommandResult submitted = job_under_crashes(submit_arguments("run", {}), doomed);
  ASSERT_EQ(submitted.exit_code, 0) << submitted.err;
  const std::string run = submitted.out.substr(5, submitted.out.find('\n') - 5);
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
  expect_undisturbed("run");
}

// A coordinator that comes back commits that it did, so before@3 and after@2 let each one get a
// commit further: together they die on both sides of every commit of the run.
INSTANTIATE_TEST_SUITE_P(Sites, F2_KillAtEveryCommitLeavesTrainingAlone,
                         ::testing::Values("store.before_commit@3", "store.after_commit@2",
                                           "engine.before_create", "engine.before_launch",
                                           "engine.after_launch", "engine.before_stop",
                                           "engine.after_stop", "engine.before_end"),
                         [](const auto& site) {
                           std::string name = site.param;
                           std::replace_if(
                               name.begin(), name.end(),
                               [](char c) { return c == '.' || c == '@'; }, '_');
                           return name;
                         });

class F3_RunsAreFoundAgain : public Undisturbed {};

TEST_F(F3_RunsAreFoundAgain, AfterTheyEndedWithoutACoordinator) {
  start();
  const std::string run = submit("run");
  const auto follow = begin_job({"logs", "-f", run});
  ASSERT_EQ(job({"wait", run, "--for", "step=2"}).exit_code, 0);
  kill_coordinator();
  wait_for_step("run", kSteps);
  // Until the ranks are gone too.
  for (int i = 0; i < 1000 && !processes_with(path("state").string() + "/runs").empty(); ++i)
    std::this_thread::sleep_for(milliseconds(20));
  start();
  EXPECT_EQ(job({"wait", run}).exit_code, 0);
  EXPECT_EQ(show(run)["restartCount"], 0);
  EXPECT_EQ(show(run)["result"]["category"], "DONE");
  const CommandResult followed = follow->wait();
  EXPECT_EQ(followed.exit_code, 0) << followed.err;
  // Whoever followed across the absence has what one who asks afterwards gets.
  EXPECT_EQ(followed.out, job({"logs", run}).out);
  EXPECT_THAT(followed.out, HasSubstr(fmt::format("step {}/{}", kSteps, kSteps)));
  expect_undisturbed("run");
}

TEST_F(F3_RunsAreFoundAgain, WhileTheyGoOn) {
  start();
  const std::string run = submit("run", {"--set", "train.steps=600"});
  ASSERT_EQ(job({"wait", run, "--for", "step=2"}).exit_code, 0);
  const pid_t rank = rank_of(run, 0);
  kill_coordinator();
  std::this_thread::sleep_for(milliseconds(500));
  start();
  ASSERT_EQ(job({"wait", run, "--for", "running"}).exit_code, 0);
  EXPECT_EQ(rank_of(run, 0), rank);
  EXPECT_EQ(job({"wait", run}).exit_code, 0);
  EXPECT_EQ(show(run)["currentAttempt"], 1);
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

class F8_RetryGoesOnFromTheNewestVerifiedCheckpoint : public Undisturbed {
 protected:
  // The directory of the newest checkpoint of a run.
  std::filesystem::path newest_checkpoint(const std::string& output) const {
    std::filesystem::path newest;
    for (const auto& entry : std::filesystem::directory_iterator(path(output) / "checkpoints")) {
      if (std::filesystem::exists(entry.path() / "manifest.json") && entry.path() > newest) {
        newest = entry.path();
      }
    }
    return newest;
  }
};

TEST_F(F8_RetryGoesOnFromTheNewestVerifiedCheckpoint, ATornOneIsSkipped) {
  start();
  // A second's sleep at step 35 leaves the time to kill a rank behind the checkpoint of step 30.
  const std::string slow =
      "fault=[{kind: slow, step: 35, rank: 0}, {kind: slow, step: 36, rank: 1}]";
  const std::string run = submit("run", {"--set", slow});
  wait_for_step("run", 34);
  kill(rank_of(run, 1), SIGSTOP);  // no further checkpoint comes
  const auto torn = newest_checkpoint("run");
  EXPECT_EQ(torn.filename(), "step-00000030");
  for (const auto& file : std::filesystem::directory_iterator(torn)) {
    if (file.path().extension() == ".safetensors" || file.path().extension() == ".bin") {
      std::filesystem::resize_file(file.path(), file.file_size() / 2);
      break;
    }
  }
  kill(rank_of(run, 1), SIGKILL);
  EXPECT_EQ(job({"wait", run}).exit_code, 0);
  const auto record = show(run);
  EXPECT_EQ(record["restartCount"], 1);
  const auto attempts = json({"runs", "show", run});
  EXPECT_THAT(job({"logs", run, "--attempt", "2"}).out, HasSubstr("step-00000020"));
  expect_undisturbed("run");
}

TEST_F(F8_RetryGoesOnFromTheNewestVerifiedCheckpoint, ARetryOfAFailedRunGoesOn) {
  start();
  const std::string failed =
      submit("run", {"--max-restarts", "-1", "--set", "fault=[{kind: kill, step: 25, rank: 1}]"});
  EXPECT_EQ(job({"wait", failed}).exit_code, 1);
  const CommandResult retried = job({"retry", failed, "--set", "fault=null", "-o", "name"});
  ASSERT_EQ(retried.exit_code, 0) << retried.err;
  const std::string run = retried.out.substr(5, retried.out.find('\n') - 5);
  EXPECT_EQ(job({"wait", run}).exit_code, 0);
  EXPECT_EQ(show(run)["parentRun"], failed);
  EXPECT_EQ(state(failed), "FAILED") << "an ended run never opens again";
  expect_undisturbed("run");
}

}  // namespace
}  // namespace lockstep::testing
