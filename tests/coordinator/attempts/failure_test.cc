#include <gtest/gtest.h>
#include <signal.h>

#include <random>

#include "comm/flight_format.h"
#include "comm/flight_recorder.h"
#include "tests/coordinator/attempts/attempt_test.h"

namespace lockstep::coordinator {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class FailureTest : public AttemptTest {};

int loops() {
  const char* text = std::getenv("LOCKSTEP_FAILURE_LOOPS");
  return text == nullptr ? 5 : std::atoi(text);
}

// The others lose their peer soon after, say so, and are ended by mpirun.
TEST_F(FailureTest, F7_TheFirstFailingRankAndItsMessageAreNamed) {
  std::mt19937 random(20261121);
  for (int i = 0; i < loops(); ++i) {
    const int ranks = 3;
    const int failing = static_cast<int>(random() % ranks);
    const int when = static_cast<int>(random() % 300);
    const json others = {{"exit_after_ms", when + 20},
                         {"exit_code", 5},
                         {"reason", "communication error"},
                         {"message", "lost a peer"},
                         {"step_ms", 5}};
    const json one = {{"exit_after_ms", when}, {"exit_code", 3}, {"message", "the data is torn"}};
    const LaunchSpec run = launch(spec(ranks, others, {{std::to_string(failing), one}}));
    const AttemptStatus end = wait_for_end(run);
    EXPECT_EQ(end.exit.failing_rank, failing) << story(run);
    EXPECT_EQ(end.exit.category, FailureCategory::kData);
    EXPECT_EQ(end.exit.code, 3);
    EXPECT_EQ(end.exit.message, "the data is torn");
    EXPECT_EQ(end.exit.host, "here");
  }
}

TEST_F(FailureTest, F7_ARankThatDiesWithoutAWordIsNamedToo) {
  for (int i = 0; i < loops(); ++i) {
    const std::string failing = std::to_string(i % 3);
    const json others = {{"exit_after_ms", 300}, {"exit_code", 5}, {"message", "lost a peer"}};
    const LaunchSpec run = launch(
        spec(3, others,
             {{failing, {{"signal_after_ms", 200}, {"signal", SIGSEGV}, {"say", "about to go"}}}}));
    const AttemptStatus end = wait_for_end(run);
    EXPECT_EQ(end.exit.failing_rank, i % 3) << story(run);
    EXPECT_EQ(end.exit.category, FailureCategory::kRankSignal);
    EXPECT_EQ(end.exit.signal, SIGSEGV);
    EXPECT_THAT(end.exit.message, HasSubstr("about to go"));
  }
}

TEST_F(FailureTest, F7_AnExitWithoutARecordIsTakenFromTheProcess) {
  const LaunchSpec run =
      launch(spec(2, {}, {{"1", {{"exit_after_ms", 50}, {"exit_code", 42}, {"record", false}}}}));
  const AttemptStatus end = wait_for_end(run);
  EXPECT_EQ(end.exit.failing_rank, 1) << story(run);
  EXPECT_EQ(end.exit.category, FailureCategory::kUserExit);
  EXPECT_EQ(end.exit.code, 42);
}

TEST_F(FailureTest, RecordsOfAnEarlierAttemptCountForNothing) {
  LaunchSpec run = spec(1, {{"steps", 3}, {"record", false}});
  state_.write(
      run.output.substr(state_.path().string().size() + 1) + "/exit/rank-0000.json",
      R"({"version":1,"rank":0,"pid":1,"exit_code":4,"reason":"diverged","message":"old","step":9,"unix_time":1000.0})");
  launch(run);
  const AttemptStatus end = wait_for_end(run);
  EXPECT_EQ(end.exit.category, FailureCategory::kDone) << story(run);
  EXPECT_EQ(end.exit.step, 0);
}

// Rank 1 has entered one collective less than the others, which wait for it.
TEST_F(FailureTest, F9_TheStuckRankIsNamedAndExaminedBeforeItIsEnded) {
  const json stuck = {{"signal_after_ms", 50}, {"signal", SIGSTOP}};
  const LaunchSpec run = launch(spec(3, {{"ignore_stop", true}}, {{"1", stuck}}));
  const AttemptStatus running = wait_for_steps(run);
  std::filesystem::create_directories(run.output + "/flight");
  ASSERT_EQ(running.ranks.size(), 3U);
  wait_until_stopped_by_signal(run, running.ranks[1].pid);
  for (int rank = 0; rank < 3; ++rank) {
    const std::string file = comm::flight_file(run.output, rank);
    {
      comm::FlightRecorder recorder(file, rank, 3, 1);
      recorder.entered(1, comm::Collective::kBarrier, 8, "before");
      recorder.completed(1);
      if (rank != 1) recorder.entered(2, comm::Collective::kAllReduce, 8, "head");
      recorder.waiting();
    }
    // As if the rank had written it.
    std::fstream header(file, std::ios::in | std::ios::out | std::ios::binary);
    header.seekp(offsetof(comm::FlightFileHeader, pid));
    header.write(reinterpret_cast<const char*>(&running.ranks[static_cast<std::size_t>(rank)].pid),
                 sizeof(std::int64_t));
  }
  StopRequest hang;
  hang.force = true;
  hang.cause = FailureCategory::kHang;
  hang.message = "no activity for 30 s";
  EXPECT_EQ(attempts_.stop(run.attempt, hang), StopAnswer::kAccepted);
  const AttemptStatus end = wait_for_end(run);
  EXPECT_EQ(end.exit.category, FailureCategory::kHang) << story(run);
  EXPECT_EQ(end.exit.failing_rank, 1);
  EXPECT_THAT(end.exit.message, HasSubstr("no activity for 30 s"));
  EXPECT_THAT(end.exit.message, HasSubstr("rank 1 has not entered"));
  ASSERT_FALSE(end.stuck.empty());
  const std::string dump = lockstep::testing::read_file(directory(run) + "/stacks.txt");
  EXPECT_THAT(dump, HasSubstr("=== rank 1"));
  EXPECT_THAT(dump, HasSubstr("state T"));
  // Found out first, ended then.
  const std::string told = lockstep::testing::read_file(directory(run) + "/spool.jsonl");
  EXPECT_LT(told.find("\"stuck\""), told.find("\"signal_sent\""));
}

}  // namespace
}  // namespace lockstep::coordinator
