#include "launcher/launch_verdict.h"

#include <gmock/gmock.h>
#include <signal.h>

#include "launcher/stop_request.h"

namespace lockstep::launcher {
namespace {

using coordinator::ExitRecordFile;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int exited(int code) {
  return code << 8;
}

ExitRecordFile record(int code, const std::string& message = "why") {
  ExitRecordFile file;
  file.exit_code = code;
  file.reason = code == 0 ? "done" : "reason";
  file.message = message;
  return file;
}

LaunchFacts two_ranks(int status, std::vector<ExitRecordFile> records = {}) {
  LaunchFacts facts;
  facts.ranks = 2;
  facts.arrived = 2;
  facts.mpirun_status = status;
  facts.records = std::move(records);
  return facts;
}

TEST(LaunchVerdictTest, RecordsSayMoreThanMpirun) {
  EXPECT_EQ(judge(two_ranks(exited(0))).code, 0);
  EXPECT_EQ(judge(two_ranks(exited(7), {record(7), record(7)})).code, 7);
  // mpirun was killed when all had been said.
  EXPECT_EQ(judge(two_ranks(SIGKILL, {record(7), record(7)})).code, 7);
  // The one that failed alone, and the one that lost it.
  const LaunchVerdict lost = judge(two_ranks(exited(1), {record(1), record(5, "rank 0 is gone")}));
  EXPECT_EQ(lost.code, 5);
  EXPECT_THAT(lost.message, HasSubstr("rank 0 is gone"));
}

TEST(LaunchVerdictTest, ALostRankIsNamedByItsSignal) {
  const LaunchVerdict killed = judge(two_ranks(exited(128 + SIGKILL), {record(0)}));
  EXPECT_EQ(killed.code, 5);
  EXPECT_THAT(killed.message, HasSubstr("signal 9"));
  const LaunchVerdict mpirun = judge(two_ranks(SIGKILL));
  EXPECT_EQ(mpirun.code, 5);
  EXPECT_THAT(mpirun.message, HasSubstr("mpirun was ended by signal 9"));
}

TEST(LaunchVerdictTest, WhatMpirunCannotStartIsSaid) {
  LaunchFacts facts = two_ranks(exited(213));
  facts.arrived = 0;
  EXPECT_EQ(judge(facts).code, 2);
  EXPECT_THAT(judge(facts).message, HasSubstr("exit status 213"));
  facts.mpirun_status = exited(127);
  EXPECT_THAT(judge(facts).message, HasSubstr("install Open MPI"));
  facts.stop_signal = SIGTERM;
  EXPECT_EQ(judge(facts).code, 7);
}

TEST(LaunchVerdictTest, RanksThatRefuseSayItThemselves) {
  LaunchFacts facts = two_ranks(exited(2));
  facts.spoke = true;
  EXPECT_EQ(judge(facts).code, 2);
  EXPECT_THAT(judge(facts).message, IsEmpty());
  facts.spoke = false;
  EXPECT_THAT(judge(facts).message, HasSubstr("configuration error"));
}

TEST(LaunchVerdictTest, AStopBeforeAnythingWasTrained) {
  LaunchFacts facts = two_ranks(exited(128 + SIGTERM));
  facts.stop_signal = SIGTERM;
  EXPECT_EQ(judge(facts).code, 7);
  facts = two_ranks(SIGKILL);
  facts.at_once = true;
  EXPECT_EQ(judge(facts).code, 7);
  EXPECT_THAT(judge(facts).message, HasSubstr("second signal"));
}

TEST(SecondRequestTest, TakesOneRequestOnSeveralWaysForOne) {
  SecondRequest request;
  EXPECT_FALSE(request.is_second(SIGTERM));
  EXPECT_FALSE(request.is_second(SIGINT));
  EXPECT_FALSE(request.is_second(SIGUSR1));
}

}  // namespace
}  // namespace lockstep::launcher
