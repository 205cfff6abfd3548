// What a coordinator's configuration says of all runs: environment, hooks, retention; and the live
// view of them.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <thread>

#include "tests/coordinator/system/job_control_test.h"

namespace lockstep::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class Policies : public JobControlTest {
 protected:
  void start_with(const std::string& sections) {
    directory_.write("coordinator.yaml", text("coordinator.yaml") + sections);
    start();
  }
  // Waits until a file says so.
  bool comes_to_say(const std::string& file, const std::string& what) const {
    for (int i = 0; i < 300; ++i) {
      if (std::filesystem::exists(path(file)) && text(file).find(what) != std::string::npos) {
        return true;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    return false;
  }
  static Arguments steps(int count) {
    return {"--set", fmt::format("train.steps={}", count), "--set", "train.validate_every=0"};
  }
};

TEST_F(Policies, RanksGetTheVariablesThatTheConfigurationAllows) {
  setenv("POLICIES_PASSED", "of the coordinator", 1);
  start_with("environment: {pass: [POLICIES_*], runs: [NCCL_*, LD_LIBRARY_PATH]}\n");
  Arguments more = {"--set", "train.steps=1000000", "--set", "schedule.name=constant"};
  const Arguments variables = {"--env", "NCCL_DEBUG=WARN", "--env", "LD_LIBRARY_PATH=/tmp"};
  more.insert(more.end(), variables.begin(), variables.end());
  const std::string run = submit("run", more);
  ASSERT_EQ(job({"wait", run, "--for", "step=1"}).exit_code, 0);
  const pid_t rank = rank_of(run, 1);
  EXPECT_EQ(environment_of(rank, "POLICIES_PASSED"), "of the coordinator");
  EXPECT_EQ(environment_of(rank, "NCCL_DEBUG"), "WARN");
  EXPECT_EQ(environment_of(rank, "LD_LIBRARY_PATH"), "/tmp");
  EXPECT_EQ(show(run)["environment"]["NCCL_DEBUG"], "WARN");
  const CommandResult refused = job(submit_arguments("other", {"--env", "LD_PRELOAD=/x.so"}));
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_THAT(refused.err, HasSubstr("environment.runs"));
  unsetenv("POLICIES_PASSED");
}

// No shell reads the command: what a run is called is one text in its environment.
TEST_F(Policies, HooksAreStartedAtTheEndOfEveryRunAlsoOfOneThatEndedMeanwhile) {
  const std::string hook = directory_
                               .write("hook.sh",
                                      "#!/bin/sh\n"
                                      "echo \"$1|$LOCKSTEP_RUN|$LOCKSTEP_RUN_NAME|"
                                      "$LOCKSTEP_RUN_STATE|$LOCKSTEP_RUN_OUTPUT\" >> " +
                                          path("ended").string() + "\n")
                               .string();
  std::filesystem::permissions(hook, std::filesystem::perms::owner_all);
  start_with(fmt::format("hooks: {{run_ended: [[{}, '$(touch pwned)']]}}\n", hook));
  Arguments more = steps(12);
  more.insert(more.end(), {"--name", "; touch pwned"});
  const std::string run = submit("run", more);
  ASSERT_EQ(job({"wait", run}).exit_code, 0);
  EXPECT_TRUE(comes_to_say("ended", fmt::format("$(touch pwned)|{}|; touch pwned|SUCCEEDED|{}\n",
                                                run, path("run").string())));
  const std::string second = submit("second", steps(12));
  ASSERT_EQ(job({"wait", second, "--for", "running"}).exit_code, 0);
  kill_coordinator();
  start();
  const std::string third = submit("third", {"--hold"});
  EXPECT_EQ(job({"cancel", third}).exit_code, 0);
  EXPECT_EQ(job({"wait", second}).exit_code, 0);
  EXPECT_TRUE(comes_to_say("ended", "|" + second + "|")) << text("ended");
  EXPECT_TRUE(comes_to_say("ended", "|" + third + "|")) << text("ended");
  EXPECT_FALSE(std::filesystem::exists(path("pwned")));
  EXPECT_TRUE(comes_to_say("coordinator.jsonl", "\"hook\""));
}

TEST_F(Policies, RunsAreDeletedArchivedAndNotKeptForEver) {
  start_with("retention: {runs: 3, age: 30d, attempts: 2, logs: 7d}\n");
  std::vector<std::string> runs;
  for (int i = 0; i < 5; ++i) {
    runs.push_back(submit("run" + std::to_string(i), {"--hold", "--label", "team=x"}));
    EXPECT_EQ(job({"cancel", runs.back()}).exit_code, 0);
  }
  for (const std::string& run : {runs[0], runs[1]})
    deleted(run);
  for (int i = 0; i < 300 && json({"runs", "list"}).size() > 3; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_EQ(json({"runs", "list"}).size(), 3U);
  EXPECT_EQ(job({"runs", "show", runs[0]}).exit_code, 5);

  deleted(runs[2]);
  EXPECT_EQ(job({"runs", "archive", runs[2]}).exit_code, 0);
  EXPECT_TRUE(std::filesystem::exists(path("state") / "archive" / runs[2] / "record.json"));
  EXPECT_EQ(job({"runs", "delete", "--filter", "label.team = x", "--dry-run"}).exit_code, 0);
  EXPECT_EQ(json({"runs", "list"}).size(), 2U);
  for (const std::string& run : {runs[3], runs[4]})
    deleted(run);
  EXPECT_EQ(job({"runs", "delete", "--filter", "label.team = x"}).exit_code, 0);
  EXPECT_TRUE(json({"runs", "list"}).empty());
  const std::string live = submit("live", {"--hold"});
  const CommandResult refused = job({"runs", "delete", live});
  EXPECT_EQ(refused.exit_code, 7);
  EXPECT_THAT(refused.err, HasSubstr("cancel it first"));
  EXPECT_EQ(job({"admin", "check"}).exit_code, 0);
}

TEST_F(Policies, ASubmitWhoseDataFilesAreMissingIsRefusedAtSubmit) {
  start();
  const CommandResult refused =
      job(submit_arguments("run", {"--set", "data.train=nowhere/train.bin"}));
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_THAT(refused.err, HasSubstr("nowhere/train.bin"));
  EXPECT_TRUE(json({"runs", "list"}).empty());
}

TEST_F(Policies, TopShowsTheLineTheHostsAndHowFarRunsAre) {
  start();
  const std::string run = submit("run", {"--set", "train.steps=1000000", "--set",
                                         "schedule.name=constant", "--name", "first"});
  const std::string held = submit("held", {"--hold", "--name", "second"});
  ASSERT_EQ(job({"wait", run, "--for", "step=3"}).exit_code, 0);
  const CommandResult shown = job({"top"});
  EXPECT_EQ(shown.exit_code, 0) << shown.err;
  EXPECT_THAT(shown.out, HasSubstr("1 running, 0 queued, 1 others; 2 of 4 slots leased"));
  EXPECT_THAT(shown.out, HasSubstr("/1000000"));
  EXPECT_THAT(shown.out, HasSubstr("[##########----------]")) << "half of the slots";
  EXPECT_LT(shown.out.find("first"), shown.out.find("second"));
  EXPECT_THAT(shown.out, Not(HasSubstr("\x1b"))) << "no terminal";
  const auto document = nlohmann::json::parse(job({"top", "-o", "json"}).out);
  EXPECT_EQ(document["runs"].size(), 2U);
  EXPECT_EQ(document["hosts"][0]["slots"].size(), 4U);
  EXPECT_EQ(job({"top", "-o", "name"}).out, "runs/" + run + "\nruns/" + held + "\n");
}

}  // namespace
}  // namespace lockstep::testing
