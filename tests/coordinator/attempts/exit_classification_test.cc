#include "coordinator/attempts/exit_classification.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <random>

namespace lockstep::coordinator {
namespace {

using ::testing::HasSubstr;

constexpr std::int64_t kMs = kSecond / 1000;

int exited(int code) {
  return code << 8;
}

RankEnd ended(int rank, std::int64_t ms, int wait_status) {
  RankEnd end;
  end.rank = rank;
  end.host = "h" + std::to_string(rank);
  end.pid = 100 + rank;
  end.end_ns = kSecond + ms * kMs;
  end.wait_status = wait_status;
  return end;
}

RankEnd recorded(int rank, std::int64_t ms, int code, const std::string& message) {
  RankEnd end = ended(rank, ms + 1000, exited(code));
  end.record = ExitRecordFile{100 + rank, code, "reason", message, 7, kSecond + ms * kMs};
  return end;
}

EndFacts facts(std::vector<RankEnd> ranks, int launcher_status) {
  EndFacts end;
  end.ranks = std::move(ranks);
  end.launcher_status = launcher_status;
  return end;
}

TEST(ExitClassification, EveryCodeHasItsCategory) {
  const std::pair<int, FailureCategory> table[] = {
      {1, FailureCategory::kInternal},      {2, FailureCategory::kConfig},
      {3, FailureCategory::kData},          {4, FailureCategory::kNumeric},
      {5, FailureCategory::kCommunication}, {6, FailureCategory::kOom},
      {42, FailureCategory::kUserExit},     {127, FailureCategory::kLaunch}};
  for (const auto& [code, category] : table) {
    const ExitInfo exit = classify(facts({recorded(0, 0, code, "why")}, exited(code)));
    EXPECT_EQ(exit.category, category) << code;
    EXPECT_EQ(exit.code, code);
    EXPECT_EQ(exit.message, "why");
  }
  EXPECT_EQ(classify(facts({recorded(0, 0, 0, "")}, exited(0))).category, FailureCategory::kDone);
  EXPECT_EQ(classify(facts({recorded(0, 0, 7, "")}, exited(7))).category,
            FailureCategory::kStopped);
  EXPECT_EQ(
      classify(facts({recorded(0, 0, 3, "write: No space left on device")}, exited(3))).category,
      FailureCategory::kDiskFull);
}

TEST(ExitClassification, F7_ALostPeerIsAConsequence) {
  const ExitInfo exit =
      classify(facts({recorded(0, 0, 5, "lost rank 2"), recorded(1, 1, 5, "lost rank 2"),
                      recorded(2, 4, 3, "the data is torn")},
                     exited(5)));
  EXPECT_EQ(exit.failing_rank, 2);
  EXPECT_EQ(exit.host, "h2");
  EXPECT_EQ(exit.message, "the data is torn");
  EXPECT_EQ(exit.step, 7);
}

TEST(ExitClassification, F7_ARankThatDiedWithoutARecordTookTheOthersDown) {
  const ExitInfo exit = classify(
      facts({recorded(0, 40, 5, "rank 1 is gone"), ended(1, 0, SIGKILL), ended(2, 1000, SIGTERM)},
            exited(137)));
  EXPECT_EQ(exit.failing_rank, 1);
  EXPECT_EQ(exit.category, FailureCategory::kRankSignal);
  EXPECT_EQ(exit.signal, SIGKILL);
}

TEST(ExitClassification, F7_ThoseThatMpirunKilledAreNotTheFirst) {
  const ExitInfo exit = classify(facts(
      {ended(0, 1000, SIGTERM), recorded(1, 0, 5, "rank 0 has not come"), ended(2, 1001, SIGKILL)},
      exited(5)));
  EXPECT_EQ(exit.failing_rank, 1);
  EXPECT_EQ(exit.message, "rank 0 has not come");
}

TEST(ExitClassification, MpirunThatWasKilledIsNamedAndNotARank) {
  EndFacts end = facts({ended(0, 20, SIGKILL), ended(1, 21, SIGKILL)}, SIGKILL);
  for (const std::int64_t launcher_ms : {19, 21, 60}) {  // ends are seen in any order
    end.launcher_end_ns = kSecond + launcher_ms * kMs;
    const ExitInfo exit = classify(end);
    EXPECT_EQ(exit.category, FailureCategory::kRankSignal);
    EXPECT_EQ(exit.failing_rank, -1);
    EXPECT_THAT(exit.message, HasSubstr("mpirun was ended by signal 9"));
  }
  // A rank noticed that another one was gone before it was killed too.
  end.ranks[1] = recorded(1, 30, 5, "rank 0 is gone");
  EXPECT_EQ(classify(end).failing_rank, -1);
  // What failed of itself before is still the cause.
  end.ranks[1] = recorded(1, 0, 3, "the data is torn");
  EXPECT_EQ(classify(end).message, "the data is torn");
  end.ranks[1] = ended(1, -5000, SIGSEGV);
  EXPECT_EQ(classify(end).failing_rank, 1);
}

TEST(ExitClassification, MpirunThatWasToldToEndIsAStopFromOutside) {
  // It gives its ranks a second, and kills those that still save.
  EndFacts end =
      facts({recorded(0, 0, 7, "stopped on request"), ended(1, 1001, SIGKILL)}, exited(1));
  ExitInfo exit = classify(end);
  EXPECT_EQ(exit.category, FailureCategory::kStopped);
  EXPECT_EQ(exit.failing_rank, -1);
  EXPECT_THAT(exit.message, HasSubstr("mpirun was told to end from outside"));
  end.ranks[0] = ended(0, 1000, SIGTERM);
  EXPECT_EQ(classify(end).category, FailureCategory::kStopped);
  // A rank that was killed is another thing: mpirun then ends with its signal.
  end.launcher_status = exited(137);
  exit = classify(end);
  EXPECT_EQ(exit.category, FailureCategory::kRankSignal);
  EXPECT_EQ(exit.failing_rank, 0);
}

TEST(ExitClassification, AStopIsToldInTheWordsOfARank) {
  const ExitInfo exit = classify(
      facts({recorded(0, 0, 7, "run.time_limit is over"), recorded(1, 1, 7, "same")}, exited(7)));
  EXPECT_EQ(exit.category, FailureCategory::kStopped);
  EXPECT_EQ(exit.message, "run.time_limit is over");
}

TEST(ExitClassification, MpirunsStatusTellsWhatNothingElseDoes) {
  RankEnd silent = ended(0, 0, 0);
  silent.wait_status.reset();
  EXPECT_EQ(classify(facts({silent}, exited(137))).signal, SIGKILL);
  EXPECT_EQ(classify(facts({silent}, exited(4))).category, FailureCategory::kNumeric);
  EXPECT_EQ(classify(facts({silent}, exited(0))).category, FailureCategory::kDone);
}

TEST(ExitClassification, AMachineOutOfMemoryKillsByName) {
  EndFacts end = facts({ended(0, 0, SIGKILL)}, exited(137));
  end.out_of_memory = true;
  EXPECT_EQ(classify(end).category, FailureCategory::kOom);
}

TEST(ExitClassification, NothingStarted) {
  RankEnd never;
  never.host = "h";
  EndFacts end = facts({never}, exited(1));
  end.launcher_last_words = "There are not enough slots";
  const ExitInfo exit = classify(end);
  EXPECT_EQ(exit.category, FailureCategory::kLaunch);
  EXPECT_THAT(exit.message, HasSubstr("not enough slots"));
}

TEST(ExitClassification, AStopIsAStopAndAFailureBeforeItAFailure) {
  EndFacts forced = facts({ended(0, 5000, SIGKILL)}, exited(137));
  forced.stop = StopRequest{};
  forced.stop_ns = kSecond;
  forced.forced_ns = kSecond + 4000 * kMs;
  EXPECT_EQ(classify(forced).category, FailureCategory::kStopped);
  EXPECT_EQ(classify(forced).failing_rank, -1);
  forced.stop->cause = FailureCategory::kTimeLimit;
  forced.stop->message = "over";
  EXPECT_EQ(classify(forced).category, FailureCategory::kTimeLimit);
  EXPECT_EQ(classify(forced).message, "over");
  // It had failed of itself before.
  EndFacts failed = facts({recorded(0, 3000, 3, "torn")}, exited(3));
  failed.stop = StopRequest{};
  failed.stop_ns = kSecond;
  EXPECT_EQ(classify(failed).category, FailureCategory::kData);
}

TEST(ExitClassification, AHangNamesWhoIsStuck) {
  EndFacts end = facts({ended(0, 100, SIGKILL), ended(1, 101, SIGKILL)}, exited(137));
  end.stop = StopRequest{
      .force = true, .grace_ns = 0, .cause = FailureCategory::kHang, .message = "no activity"};
  end.stop_ns = kSecond + 10 * kMs;
  end.forced_ns = kSecond + 20 * kMs;
  end.stuck = {"rank 1 has not entered barrier #3"};
  end.stuck_rank = 1;
  const ExitInfo exit = classify(end);
  EXPECT_EQ(exit.category, FailureCategory::kHang);
  EXPECT_EQ(exit.failing_rank, 1);
  EXPECT_EQ(exit.host, "h1");
  EXPECT_EQ(exit.message, "no activity: rank 1 has not entered barrier #3");
}

}  // namespace
}  // namespace lockstep::coordinator
