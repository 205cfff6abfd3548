// A rank that stops or loops: the others end in time, and every trace that they leave names it.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <signal.h>

#include <chrono>
#include <filesystem>
#include <sstream>

#include "tests/support/training_test.h"

namespace lockstep {
namespace {

using testing::Command;
using testing::CommandResult;
using ::testing::ContainsRegex;
using testing::Launch;
using testing::TrainingCall;

constexpr int kRanks = 3;
constexpr int kTimeout = 3;

class DrillTest : public testing::TrainingTest, public ::testing::WithParamInterface<int> {
 protected:
  static TrainingCall call(const std::string& fault) {
    return {.set = {"train.steps=1000000", "checkpoint.every_steps=10", "checkpoint.async=false",
                    "fault=" + fault, fmt::format("parallel.timeout_seconds={}", kTimeout)},
            .ranks = kRanks};
  }

  nlohmann::json exit_record(int rank) const {
    return nlohmann::json::parse(text(fmt::format("run/exit/rank-{:04}.json", rank)), nullptr,
                                 false);
  }

  // The first line of a rank's log that tells an error.
  std::string first_error(int rank) const {
    std::istringstream lines(text(fmt::format("run/logs/rank-{:04}.log", rank)));
    for (std::string line; std::getline(lines, line);) {
      if (line.find("communication error") != std::string::npos ||
          line.find("internal error") != std::string::npos)
        return line;
    }
    return "";
  }

  // A rank that was stopped may have entered the collective already; then it keeps its peers' data
  // waiting. What must be found after the run of `result`, in which `stuck` entered no collective
  // any more.
  void expect_named(const CommandResult& result, int stuck) const {
    EXPECT_EQ(result.exit_code, 5) << result.err;
    const std::string cause = fmt::format(
        "rank {} .*has not (entered|read this rank's data of) [a-z_]+ #[0-9]+ "
        "\\([a-z_.0-9]+\\) for {}",
        stuck, kTimeout);
    EXPECT_THAT(result.err, ContainsRegex(cause));
    for (int rank = 0; rank < kRanks; ++rank) {
      if (rank == stuck) continue;
      SCOPED_TRACE(fmt::format("rank {}", rank));
      EXPECT_THAT(first_error(rank), ContainsRegex(cause));
      const auto record = exit_record(rank);
      ASSERT_TRUE(record.is_object());
      EXPECT_EQ(record["exit_code"], 5);
      EXPECT_THAT(record["message"].get<std::string>(), ContainsRegex(cause));
    }
    const CommandResult flight = lockstep({"flight", path("run")});
    EXPECT_EQ(flight.exit_code, 0) << flight.err;
    EXPECT_THAT(flight.out,
                ContainsRegex(fmt::format("rank {} has not (entered|completed) ", stuck)));
  }

  // From the moment at which the rank stopped: the timeout, what telling takes, and mpirun's second
  // of patience with what does not answer SIGTERM.
  static void expect_in_time(std::chrono::steady_clock::time_point begin) {
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(kTimeout + 7));
  }
};

TEST_P(DrillTest, AStoppedRankIsNamed) {
  Command run(command_line(call("[]")), command_options(call("[]")));
  wait_for_step("run", 5);
  ASSERT_EQ(kill(rank_process(GetParam()), SIGSTOP), 0);
  const auto begin = std::chrono::steady_clock::now();
  const CommandResult result = run.wait();
  expect_in_time(begin);
  expect_named(result, GetParam());
}

TEST_P(DrillTest, ARankThatLoopsIsNamed) {
  const TrainingCall looping =
      call(fmt::format("[{{kind: hang, step: 12, rank: {}}}]", GetParam()));
  Command run(command_line(looping), command_options(looping));
  wait_for_step("run", 11);
  const auto begin = std::chrono::steady_clock::now();
  const CommandResult result = run.wait();
  expect_in_time(begin);
  expect_named(result, GetParam());
  EXPECT_EQ(exit_record(GetParam() == 0 ? 1 : 0)["step"], 11);
  // What was saved before is whole, and the next attempt gets past the drill.
  TrainingCall again = looping;
  again.set.front() = "train.steps=14";
  again.more = {"--resume", "auto"};
  must_train(again);
  EXPECT_EQ(step_lines("run").size(), 14U);
  const auto resumes = metrics("run", "resume");
  ASSERT_FALSE(resumes.empty());
  EXPECT_EQ(resumes.front()["step"], 10);
}

// A bug in one rank, between two collectives: it says what broke, its peers say who.
TEST_P(DrillTest, ARankThatThrowsIsNamed) {
  for (const Launch launch : {Launch::kRanksOption, Launch::kMpirun}) {
    SCOPED_TRACE(launch == Launch::kMpirun ? "mpirun" : "--ranks");
    std::filesystem::remove_all(path("run"));
    TrainingCall throwing = call(fmt::format("[{{kind: throw, step: 12, rank: {}}}]", GetParam()));
    throwing.launch = launch;
    Command run(command_line(throwing), command_options(throwing));
    wait_for_step("run", 10);
    const auto begin = std::chrono::steady_clock::now();
    const CommandResult result = run.wait();
    // 2 s for the ranks, and what mpirun needs to leave on a busy machine.
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(2 + 5));
    EXPECT_NE(result.exit_code, 0);
    if (launch == Launch::kRanksOption) {
      EXPECT_EQ(result.exit_code, 5) << result.err;
    }
    const std::string drill = "drill: an exception is thrown at step 12";
    const std::string cause = fmt::format("rank {}[^0-9].*{}", GetParam(), drill);
    for (int rank = 0; rank < kRanks; ++rank) {
      SCOPED_TRACE(fmt::format("rank {}", rank));
      const bool threw = rank == GetParam();
      const auto record = exit_record(rank);
      ASSERT_TRUE(record.is_object());
      EXPECT_EQ(record["exit_code"], threw ? 1 : 5);
      // A peer may still have been in the last exchange of step 11.
      EXPECT_GE(record["step"], threw ? 11 : 10);
      EXPECT_LE(record["step"], 11);
      EXPECT_THAT(record["message"].get<std::string>(), ContainsRegex(threw ? drill : cause));
      EXPECT_THAT(first_error(rank), ContainsRegex(threw ? "internal error: " + drill : cause));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Rank, DrillTest, ::testing::Values(0, 2));

}  // namespace
}  // namespace lockstep
