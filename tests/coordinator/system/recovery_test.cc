// The store, the socket, the configuration: taken away or changed under a coordinator whose runs
// train. The processes are real, so that nothing lives by a fake's grace.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <thread>

#include "tests/coordinator/system/job_control_test.h"

namespace lockstep::testing {
namespace {

using ::testing::HasSubstr;

const Arguments kEndless = {"--set", "train.steps=1000000", "--set", "schedule.name=constant"};

class Recovery : public JobControlTest {
 protected:
  std::string training(const std::string& output) {
    const std::string run = submit(output, kEndless);
    EXPECT_EQ(job({"wait", run, "--for", "step=3"}).exit_code, 0);
    return run;
  }
  int step_of(const std::string& run) const {
    return std::stoi(show(run)["progress"]["step"].get<std::string>());
  }
  // It is the same process, and it trains on.
  void expect_undisturbed_rank(const std::string& run, pid_t rank) {
    EXPECT_EQ(rank_of(run, 0), rank) << "the rank was started anew";
    const int step = step_of(run);
    EXPECT_EQ(job({"wait", run, "--for", "step=" + std::to_string(step + 20)}).exit_code, 0);
    const auto record = show(run);
    EXPECT_EQ(record["state"], "RUNNING");
    EXPECT_EQ(record["restartCount"], 0);
    EXPECT_EQ(record["currentAttempt"], 1);
  }
  std::string in_shell(const std::string& script) const {
    CommandOptions options = command_options({});
    options.environment["PATH"] =
        std::filesystem::path(std::getenv("LOCKSTEP_BINARY")).parent_path().string() + ":" +
        std::getenv("PATH");
    const CommandResult result = run_command({"bash", "-ec", script}, options);
    EXPECT_EQ(result.exit_code, 0) << script << "\n" << result.err;
    return result.out;
  }
};

TEST_F(Recovery, AStoreThatIsGoneKillsNothing) {
  start();
  const std::string run = training("run");
  const pid_t rank = rank_of(run, 0);
  for (const char* loss :
       {"rm -f state/store.db*", "truncate -s 0 state/store.db; rm -f state/store.db-*"}) {
    SCOPED_TRACE(loss);
    kill_coordinator();
    in_shell(loss);
    store_lost();
    start();
    expect_undisturbed_rank(run, rank);
    EXPECT_THAT(text("coordinator.jsonl") + job({"runs", "events", run}).out, HasSubstr("adopted"));
  }
  EXPECT_EQ(job({"checkpoint", run, "--wait"}).exit_code, 0) << "its agent obeys";
  EXPECT_EQ(job({"cancel", run, "--wait"}).exit_code, 0);
}

// The commands of docs/job_control.md.
TEST_F(Recovery, TheDocumentedRestoreGoesOnWithWhatRuns) {
  start();
  const std::string held = submit("held", {"--hold"});
  EXPECT_EQ(job({"admin", "backup", path("store.backup").string()}).exit_code, 0);
  const std::string run = training("run");
  const pid_t rank = rank_of(run, 0);
  const std::string document =
      read_file(std::filesystem::path(std::getenv("LOCKSTEP_SOURCE_DIR")) / "docs/job_control.md");
  const std::size_t heading = document.find("## Putting a store back");
  ASSERT_NE(heading, std::string::npos);
  std::istringstream lines(document.substr(heading));
  std::string script = "cd " + path("").string() + "; STATE=state; BACKUP=store.backup\n";
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("## ") && line.find("Putting") == std::string::npos) break;
    if (!line.starts_with("    ") || line.find("lockstep coordinator") != std::string::npos)
      continue;
    if (line.find("admin adopt") != std::string::npos ||
        line.find("admin end") != std::string::npos)
      continue;
    if (line.find("admin check") != std::string::npos) continue;
    script += line + "\n";
  }
  in_shell(script);
  for (int i = 0; i < 600 && !coordinator_ended(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  ASSERT_TRUE(coordinator_ended()) << script;
  store_lost();  // of requests since the copy the store knows nothing
  start();
  expect_undisturbed_rank(run, rank);
  EXPECT_EQ(state(held), "WAITING");
  EXPECT_EQ(job({"cancel", run, "--wait"}).exit_code, 0);
}

TEST_F(Recovery, ASocketThatIsRemovedIsMadeAgain) {
  start();
  const std::string run = training("run");
  const auto follow = begin_job({"wait", run});
  for (int round = 0; round < 2; ++round) {
    std::filesystem::remove(path("socket"));
    EXPECT_EQ(job({"runs", "show", run}).exit_code, 0) << "nobody can reach it any more";
  }
  EXPECT_EQ(show(run)["restartCount"], 0);
  EXPECT_EQ(job({"cancel", run, "--wait"}).exit_code, 0);
  EXPECT_EQ(follow->wait().exit_code, 3) << "who waited still waits";
}

TEST_F(Recovery, SighupReadsTheConfigurationAgain) {
  start();
  const std::string run = training("run");
  const pid_t rank = rank_of(run, 0);
  const auto follow = begin_job({"wait", run});
  const std::string before = text("coordinator.yaml");
  const auto change = [&](const std::string& from, const std::string& to) {
    std::string changed = before;
    changed.replace(changed.find(from), from.size(), to);
    std::ofstream(path("coordinator.yaml")) << changed;
    kill(coordinator_pid(), SIGHUP);
  };
  const auto told = [&](const std::string& what) {
    for (int i = 0; i < 400 && text("coordinator.jsonl").find(what) == std::string::npos; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    return text("coordinator.jsonl").find(what) != std::string::npos;
  };
  change("slots: 4", "slots: 3");
  EXPECT_TRUE(told("\"reload\""));
  EXPECT_EQ(json({"hosts", "list"})[0]["slots"].size(), 3U);
  // What could not hold is said, and changes nothing.
  change("name: local", "name: renamed");
  EXPECT_TRUE(told("which is not in the configuration"));
  change("slots: 4", "slots: x");
  EXPECT_TRUE(told("coordinator.yaml:3"));
  EXPECT_EQ(json({"hosts", "list"})[0]["name"], "local");
  EXPECT_FALSE(coordinator_ended());
  std::ofstream(path("coordinator.yaml")) << before;
  expect_undisturbed_rank(run, rank);
  EXPECT_EQ(job({"cancel", run, "--wait"}).exit_code, 0);
  EXPECT_EQ(follow->wait().exit_code, 3);
}

// Who follows does not notice that a coordinator is stopped as planned.
TEST_F(Recovery, APlannedStopIsWaitedOutByAllWhoFollow) {
  start();
  const std::string run = training("run");
  std::vector<std::unique_ptr<Command>> followers;
  for (int i = 0; i < 2; ++i) {
    followers.push_back(begin_job({"wait", run}));
    followers.push_back(begin_job({"logs", "-f", run, "--tail", "1"}));
    followers.push_back(begin_job({"metrics", "-f", run, "--tail", "1"}));
  }
  EXPECT_EQ(job({"admin", "shutdown"}).exit_code, 0);
  for (int i = 0; i < 600 && !coordinator_ended(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  ASSERT_TRUE(coordinator_ended());
  start();
  EXPECT_EQ(job({"cancel", run, "--wait"}).exit_code, 0);
  for (const auto& follower : followers) {
    const CommandResult result = follower->wait();
    EXPECT_EQ(result.exit_code, 3) << result.err;
  }
}

TEST_F(Recovery, ASigtermFromOutsideIsTriedAgain) {
  start();
  const std::string run = training("run");
  kill(rank_of(run, 1), SIGTERM);
  EXPECT_EQ(job({"wait", run, "--for", "paused", "--timeout", "2s"}).exit_code, 4);
  for (int i = 0; i < 600 && show(run)["currentAttempt"] == 1; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  ASSERT_EQ(job({"wait", run, "--for", "running"}).exit_code, 0);
  const auto record = show(run);
  EXPECT_EQ(record["currentAttempt"], 2);
  EXPECT_EQ(record["result"]["category"], "STOPPED");
  EXPECT_EQ(job({"cancel", run, "--wait"}).exit_code, 0);
}

}  // namespace
}  // namespace lockstep::testing
