// What the README tells, and what the commands answer when things go wrong.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <thread>

#include "tests/coordinator/system/job_control_test.h"

namespace lockstep::testing {
namespace {

using ::testing::HasSubstr;

// So long that it does not end by itself.
const Arguments kEndless = {"--set", "train.steps=1000000", "--set", "schedule.name=constant"};

class ReadmePath : public JobControlTest {
 protected:
  int free_slots() const {
    int open = 0;
    const auto hosts = json({"hosts", "list"});
    for (const auto& slot : hosts[0]["slots"])
      open += slot["run"].get<std::string>().empty() ? 1 : 0;
    return open;
  }
  Arguments endless(const Arguments& more = {}) const {
    Arguments all = kEndless;
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
};

TEST_F(ReadmePath, SubmitFollowCheckpointPauseResumeWaitCancel) {
  start();
  // The sleeps leave the time for all that follows.
  std::string sleeps = "fault=[";
  for (int step = 20; step < 400; step += 40)
    sleeps += fmt::format("{{kind: slow, step: {}}}, ", step);
  const std::string run =
      submit("run", {"--set", "train.steps=400", "--name", "first", "--set", sleeps + "]"});
  const auto follow = begin_job({"logs", "-f", run});
  ASSERT_EQ(job({"wait", run, "--for", "step=3"}).exit_code, 0);
  EXPECT_EQ(free_slots(), 2);

  const auto checkpoint = json({"checkpoint", run, "--wait"})["checkpoint"];
  EXPECT_TRUE(std::filesystem::exists(checkpoint["path"].get<std::string>() + "/manifest.json"));

  const CommandResult paused = job({"pause", run, "--wait"});
  EXPECT_EQ(paused.exit_code, 0) << paused.out << paused.err;
  EXPECT_EQ(state(run), "PAUSED");
  EXPECT_EQ(free_slots(), 4);
  EXPECT_EQ(job({"resume", run}).exit_code, 0);

  const std::string other = submit("other", endless());
  ASSERT_EQ(job({"wait", other, "--for", "running"}).exit_code, 0);
  EXPECT_EQ(job({"wait", other, "--timeout", "200ms"}).exit_code, 4);
  EXPECT_EQ(job({"cancel", other, "--wait", "--reason", "not needed"}).exit_code, 0);
  EXPECT_EQ(job({"wait", other}).exit_code, 3);
  EXPECT_TRUE(processes_of(other).empty());

  EXPECT_EQ(job({"wait", run}).exit_code, 0);
  const CommandResult followed = follow->wait();
  EXPECT_EQ(followed.exit_code, 0) << followed.err;
  EXPECT_THAT(followed.out, HasSubstr("[rank 0] "));
  EXPECT_THAT(followed.out, HasSubstr("step 400/400"));
  EXPECT_THAT(followed.err, HasSubstr("SUCCEEDED"));
  EXPECT_THAT(followed.err, HasSubstr("attempt 2"));

  const CommandResult table = job({"runs", "list"});
  EXPECT_THAT(table.out, HasSubstr("first"));
  EXPECT_THAT(table.out, HasSubstr("400/400"));
  EXPECT_THAT(job({"explain", other}).out, HasSubstr("not needed"));
}

TEST_F(ReadmePath, ARunThatFailsSaysSo) {
  start();
  const std::string run =
      submit("run", {"--set", "fault=[{kind: kill, step: 3, rank: 1}]", "--max-restarts", "-1"});
  const CommandResult followed = job({"logs", "-f", run});
  EXPECT_EQ(followed.exit_code, 1) << followed.err;
  EXPECT_EQ(job({"wait", run}).exit_code, 1);
  EXPECT_EQ(state(run), "FAILED");
  EXPECT_THAT(job({"explain", run}).out, HasSubstr("rank 1"));
}

TEST_F(ReadmePath, ExitCodesTellWhatWasWrong) {
  EXPECT_EQ(lockstep({"runs", "list", "--patience", "0.2"}).exit_code, 6);
  start();
  EXPECT_EQ(job({"wait", "nosuchrun"}).exit_code, 5);
  EXPECT_EQ(job({"runs", "list", "--state", "SLEEPING"}).exit_code, 2);
  EXPECT_EQ(job({"submit", "absent.yaml"}).exit_code, 2);
  const std::string run = submit("run", endless({"--hold"}));
  EXPECT_EQ(job({"retry", run}).exit_code, 7);                     // it has not ended
  EXPECT_EQ(job(submit_arguments("run", kEndless)).exit_code, 7);  // its output is taken
  EXPECT_EQ(
      job(submit_arguments("big", endless({"--ranks-per-host", "5", "--ranks", "24"}))).exit_code,
      7);  // can never fit
  EXPECT_EQ(job({"cancel", run}).exit_code, 0);
  EXPECT_EQ(job({"cancel", run}).exit_code, 0);  // again: nothing to do
  EXPECT_EQ(job({"resume", run}).exit_code, 7);
  EXPECT_EQ(job({"wait", run}).exit_code, 3);
}

TEST_F(ReadmePath, ConfigurationsAreRefusedWithPlaceAndNearestKey) {
  start();
  directory_.write("config.yaml",
                   "model: {layers: 1, heads: 1, width: 8, context: 8, vocab: 64}\n"
                   "data: {train: tokens.bin}\n"
                   "batch: {global: 2, mikro: 1}\n"
                   "train: {steps: 3}\n");
  const CommandResult refused = job(submit_arguments("run", {}));
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_THAT(refused.err, HasSubstr("config.yaml:3:20: batch.mikro: unknown key"));
  EXPECT_THAT(refused.err, HasSubstr("did you mean 'batch.micro'"));
  EXPECT_TRUE(json({"runs", "list"}).empty());
}

TEST_F(ReadmePath, ADryRunSubmitsNothing) {
  start();
  const CommandResult forecast =
      job({"submit", "config.yaml", "--ranks", "2", "--dry-run", "--set", "run.output=run"});
  EXPECT_EQ(forecast.exit_code, 0) << forecast.err;
  EXPECT_THAT(forecast.out, HasSubstr("would start now on local"));
  EXPECT_THAT(forecast.out, HasSubstr(path("run").string()));
  EXPECT_TRUE(json({"runs", "list"}).empty());
  EXPECT_FALSE(std::filesystem::exists(path("run")));
}

// Paths mean what they mean where the configuration was submitted, wherever the coordinator stands.
TEST_F(ReadmePath, PathsAreThoseOfTheOneWhoSubmits) {
  start();
  const auto run = show(submit("sub/run", endless({"--hold"})));
  EXPECT_EQ(run["output"], path("sub/run").string());
  EXPECT_THAT(run["resolvedConfig"].get<std::string>(), HasSubstr(path("tokens.bin").string()));
}

TEST_F(ReadmePath, CtrlCLeavesTheRunAlone) {
  start();
  const std::string run = submit("run", kEndless);
  ASSERT_EQ(job({"wait", run, "--for", "step=2"}).exit_code, 0);
  const auto follow = begin_job({"logs", "-f", run});
  std::this_thread::sleep_for(std::chrono::milliseconds(700));
  kill(follow->pid(), SIGINT);
  const CommandResult left = follow->wait();
  EXPECT_EQ(left.exit_code, 4);
  EXPECT_THAT(left.err, HasSubstr("which goes on"));
  EXPECT_EQ(state(run), "RUNNING");
}

TEST_F(ReadmePath, WaitingRunsSayWhy) {
  start();
  const std::string first = submit("first", endless({"--ranks", "4"}));
  ASSERT_EQ(job({"wait", first, "--for", "running"}).exit_code, 0);
  const std::string second = submit("second", kEndless);
  const CommandResult why = job({"explain", second});
  EXPECT_THAT(why.out, HasSubstr("SLOTS"));
  EXPECT_THAT(why.out, HasSubstr(first));
  const std::string third = submit("third", endless({"--after", second}));
  EXPECT_THAT(job({"explain", third}).out, HasSubstr("DEPENDENCY"));
  EXPECT_EQ(job({"hosts", "drain", "local", "--reason", "new disks"}).exit_code, 0);
  EXPECT_THAT(job({"hosts", "list"}).out, HasSubstr("new disks"));
  EXPECT_EQ(job({"hosts", "undrain", "local"}).exit_code, 0);
  // What it waited for did not succeed: it does not wait for ever.
  EXPECT_EQ(job({"cancel", second}).exit_code, 0);
  wait_for_state(third, "FAILED");
}

TEST_F(ReadmePath, CompletionKnowsCommandsOptionsAndRuns) {
  start();
  const std::string run = submit("run", endless({"--hold"}));
  const auto complete = [&](const std::string& words, int last) {
    const std::string script =
        "PATH=" + std::filesystem::path(std::getenv("LOCKSTEP_BINARY")).parent_path().string() +
        ":$PATH; source <(lockstep completion bash); COMP_WORDS=(" + words +
        "); COMP_CWORD=" + std::to_string(last) + "; _lockstep; echo \"${COMPREPLY[*]}\"";
    return run_command({"bash", "-c", script}, command_options({})).out;
  };
  EXPECT_THAT(complete("lockstep ru", 1), HasSubstr("runs"));
  EXPECT_THAT(complete("lockstep runs ''", 2), HasSubstr("list"));
  EXPECT_THAT(complete("lockstep runs list --st", 3), HasSubstr("--state"));
  EXPECT_THAT(complete("lockstep logs ''", 2), HasSubstr(run));
  for (const char* shell : {"bash", "zsh"}) {
    const auto script = directory_.write("script", lockstep({"completion", shell}).out);
    EXPECT_EQ(run_command({"bash", "-n", script}).exit_code, 0);
  }
  EXPECT_THAT(lockstep({"completion", "fish"}).out, HasSubstr("complete -c lockstep"));
}

}  // namespace
}  // namespace lockstep::testing
