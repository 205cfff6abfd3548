// What a coordinator that was away finds again: F3 and F4. LOCKSTEP_OUTAGES (default: 0,1,3) are
// the seconds that it is away; scripts/soak/coordinator_kill.sh has 0, 20 and 60.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <sstream>
#include <thread>
#include <utility>

#include "coordinator/attempts/attempt_files.h"
#include "coordinator/attempts/process.h"
#include "tests/coordinator/system/undisturbed_test.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;
using ::testing::HasSubstr;

std::vector<int> outages() {
  const char* value = std::getenv("LOCKSTEP_OUTAGES");
  std::istringstream list(value == nullptr ? "0,1,3" : value);
  std::vector<int> all;
  for (std::string each; std::getline(list, each, ',');)
    all.push_back(std::atoi(each.c_str()));
  return all;
}

class F3_RunsAreFoundAgain : public Undisturbed, public ::testing::WithParamInterface<int> {
 protected:
  // Sleeps while the coordinator is away, and for as long as it takes to look afterwards.
  std::string sleeps_through_the_outage(const std::string& more = "") const {
    return sleeps(kFirstSleep, kFirstSleep + GetParam() + 4, more);
  }
  // Long enough for these.
  Arguments arguments(const std::string& faults) const {
    return {"--set", fmt::format("train.steps={}", steps()), "--set", faults};
  }
  int steps() const { return kFirstSleep + GetParam() + 20; }

  void SetUp() override {
    JobControlTest::SetUp();
    must_train({.set = {fmt::format("train.steps={}", steps())},
                .ranks = 2,
                .output = "undisturbed",
                .timeout_seconds = 300});
  }

  // Kills the coordinator, and starts the next one when the time is over and `until` holds.
  void be_away(auto until) {
    kill_coordinator();
    const auto back = steady_clock::now() + seconds(GetParam());
    const auto last = back + seconds(120);
    while (steady_clock::now() < back || (!until() && steady_clock::now() < last))
      std::this_thread::sleep_for(milliseconds(20));
    start();
  }
  bool has_ended_by_itself() const {
    return processes_with(path("state").string() + "/runs").empty();
  }

  // Whoever followed across the absence has, of each rank and stream, what is in the files, and so
  // has one who asks afterwards.
  void expect_exact_logs(const std::string& run, const std::string& followed) const {
    for (const int rank : {0, 1}) {
      std::string both;
      for (const std::string stream : {"out", "err"}) {
        const std::string written = written_by(run, rank, stream);
        EXPECT_EQ(
            without_names(
                job({"logs", run, "--rank", std::to_string(rank), "--stream", "std" + stream}).out),
            written);
        both += written;
      }
      // Two streams are merged by time; lines of one rank come twice nowhere.
      EXPECT_EQ(sorted_lines(of_rank(followed, rank)), sorted_lines(both)) << "rank " << rank;
    }
  }

  static constexpr int kFirstSleep = 6;

 private:
  std::string written_by(const std::string& run, int rank, const std::string& stream) const {
    const std::string name = fmt::format("rank-{:04}.{}.", rank, stream);
    std::vector<fs::path> segments;
    for (const auto& file :
         fs::directory_iterator(path("state") / "runs" / run / "attempts" / "1" / "logs")) {
      const std::string found = file.path().filename().string();
      if (found.starts_with(name) && !found.ends_with(".idx")) segments.push_back(file.path());
    }
    std::sort(segments.begin(), segments.end());
    std::string written;
    for (const fs::path& segment : segments)
      written += read_file(segment);
    return written;
  }
  static std::string of_rank(const std::string& log, int rank) {
    const std::string name = fmt::format("[rank {}] ", rank);
    std::istringstream in(log);
    std::string found;
    for (std::string line; std::getline(in, line);) {
      if (line.starts_with(name)) found += line.substr(name.size()) + "\n";
    }
    return found;
  }
  static std::string without_names(const std::string& log) {
    std::istringstream in(log);
    std::string found;
    for (std::string line; std::getline(in, line);)
      found += (line.starts_with("[rank ") ? line.substr(line.find("] ") + 2) : line) + "\n";
    return found;
  }
  static std::vector<std::string> sorted_lines(const std::string& text) {
    std::istringstream in(text);
    std::vector<std::string> lines;
    for (std::string line; std::getline(in, line);)
      lines.push_back(line);
    std::sort(lines.begin(), lines.end());
    return lines;
  }
};

TEST_P(F3_RunsAreFoundAgain, WhileTheyGoOn) {
  start();
  const std::string run = submit("run", arguments(sleeps_through_the_outage()));
  const auto follow = begin_job({"logs", "-f", run});
  ASSERT_EQ(job({"wait", run, "--for", "step=2"}).exit_code, 0);
  const pid_t rank = rank_of(run, 0);
  be_away([] { return true; });
  ASSERT_EQ(job({"wait", run, "--for", "running"}).exit_code, 0);
  EXPECT_EQ(rank_of(run, 0), rank);
  EXPECT_EQ(job({"wait", run}).exit_code, 0);
  EXPECT_EQ(show(run)["currentAttempt"], 1);
  EXPECT_EQ(show(run)["restartCount"], 0);
  const CommandResult followed = follow->wait();
  EXPECT_EQ(followed.exit_code, 0) << followed.err;
  expect_exact_logs(run, followed.out);
  expect_same_run("run", "undisturbed", steps());
}

TEST_P(F3_RunsAreFoundAgain, AfterTheyEndedWithoutACoordinator) {
  start();
  const std::string run = submit("run", arguments(sleeps(kFirstSleep, kFirstSleep + 1)));
  const auto follow = begin_job({"logs", "-f", run});
  ASSERT_EQ(job({"wait", run, "--for", "step=2"}).exit_code, 0);
  be_away([this] { return has_ended_by_itself(); });
  EXPECT_EQ(job({"wait", run}).exit_code, 0);
  EXPECT_EQ(show(run)["restartCount"], 0);
  EXPECT_EQ(show(run)["result"]["category"], "DONE");
  const CommandResult followed = follow->wait();
  EXPECT_EQ(followed.exit_code, 0) << followed.err;
  EXPECT_THAT(followed.out, HasSubstr(fmt::format("step {}/{}", steps(), steps())));
  expect_exact_logs(run, followed.out);
  expect_same_run("run", "undisturbed", steps());
}

TEST_P(F3_RunsAreFoundAgain, AfterTheyFailedWithoutACoordinator) {
  start();
  Arguments more =
      arguments(sleeps(kFirstSleep, kFirstSleep + 1, "{kind: kill, step: 12, rank: 1}"));
  more.insert(more.end(), {"--max-restarts", "-1"});
  const std::string run = submit("run", more);
  const auto follow = begin_job({"logs", "-f", run});
  ASSERT_EQ(job({"wait", run, "--for", "step=2"}).exit_code, 0);
  be_away([this] { return has_ended_by_itself(); });
  EXPECT_EQ(job({"wait", run}).exit_code, 1);
  const auto result = show(run)["result"];
  EXPECT_EQ(result["category"], "RANK_SIGNAL");
  EXPECT_EQ(result["failingRank"], 1) << result.dump();
  EXPECT_EQ(result["signal"], SIGKILL);
  const CommandResult followed = follow->wait();
  EXPECT_EQ(followed.exit_code, 1) << "signal " << followed.signal << ": " << followed.err;
  expect_exact_logs(run, followed.out);
}

INSTANTIATE_TEST_SUITE_P(Seconds, F3_RunsAreFoundAgain, ::testing::ValuesIn(outages()),
                         [](const auto& outage) { return std::to_string(outage.param); });

class F4_ProcessesOfOthers : public Undisturbed {};

// The supervisor is dead, and what it left says that a process of somebody else was it and its
// rank. The run goes on in a new attempt; the other process goes on too.
TEST_F(F4_ProcessesOfOthers, AreLeftAloneWhateverTheRecordsSay) {
  using namespace coordinator;
  const Command foreign({"sleep", "300"});
  const auto stat = read_stat(foreign.pid());
  ASSERT_TRUE(stat);
  const std::string other_boot = "00000000-0000-0000-0000-000000000000";
  const std::pair<std::string, SupervisorIdentity> forged[] = {
      {"live", {boot_id(), foreign.pid(), stat->start_ticks}},
      {"reused", {boot_id(), foreign.pid(), stat->start_ticks - 5}},
      {"rebooted", {other_boot, foreign.pid(), stat->start_ticks}}};
  start();
  for (const auto& [name, identity] : forged) {
    SCOPED_TRACE(name);
    const std::string run = submit(name);
    wait_for_step(name, 12);
    kill_coordinator();
    const fs::path directory = path("state") / "runs" / run / "attempts" / "1";
    const auto supervisor = read_supervisor_identity(directory);
    ASSERT_TRUE(supervisor);
    kill(static_cast<pid_t>(supervisor->pid), SIGKILL);
    std::this_thread::sleep_for(milliseconds(300));
    AttemptStatus state;
    state.phase = AttemptPhase::kRunning;
    state.supervisor_pid = foreign.pid();
    state.ranks = {{0, foreign.pid(), true}, {1, foreign.pid(), true}};
    state.start_time_ns = unix_now_ns();
    const std::string below = fmt::format("state/runs/{}/attempts/1/", run);
    directory_.write(below + "supervisor.json", to_text(identity));
    directory_.write(below + "state.json", to_text(to_json(state)));
    start();
    EXPECT_EQ(job({"wait", run}).exit_code, 0);
    EXPECT_EQ(show(run)["currentAttempt"], 2);
    EXPECT_TRUE(ProcessHandle::open(foreign.pid())) << "a process that is not ours was ended";
    expect_undisturbed(name);
  }
}

}  // namespace
}  // namespace lockstep::testing
