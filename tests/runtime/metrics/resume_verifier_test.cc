#include "runtime/metrics/resume_verifier.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "core/hash.h"
#include "runtime/metrics/cut_lines.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::runtime {
namespace {

constexpr std::uint64_t kSetUp = 0xabcd;
constexpr int kRanks = 2;

std::string step_line(int step, const std::string& loss = "0.5", double seconds = 1.0) {
  return fmt::format(R"({{"event":"step","step":{},"loss":{},"tokens_per_second":{},)"
                     R"("step_seconds":{}}})",
                     step, loss, 8.0 / seconds, seconds);
}

std::string validation_line(int step, const std::string& loss = "0.25") {
  return fmt::format(R"({{"event":"validation","step":{},"loss":{}}})", step, loss);
}

std::string record(int step, const std::string& outcome = "applied", const std::string& more = "") {
  return fmt::format(R"({{"step":{},"outcome":"{}"{},"hash":"00"}})", step, outcome, more);
}

std::string run_line(std::uint64_t set_up) {
  return fmt::format(R"({{"event":"run","set_up":"{}"}})", core::to_hex(set_up)) + "\n";
}

// OUTPUT of a run that goes back to its start, so that everything but the `run` line is cut.
class ResumeVerifierTest : public ::testing::Test {
 protected:
  std::string output() const { return directory_.path().string(); }

  // metrics.jsonl with the `run` line and then `lines`; ledger.jsonl.
  void write(const std::string& lines, const std::string& ledger) const {
    for (const auto& [name, text] :
         {std::pair<std::string, std::string>{"metrics.jsonl", run_line(kSetUp) + lines},
          {"ledger.jsonl", ledger}}) {
      std::filesystem::remove(directory_.path() / name);
      directory_.write(name, text);
    }
  }

  bool keep(ResumePoint point = {.step = 0, .set_up = kSetUp, .left_out = nullptr}) const {
    return keep_cut_lines(output(), run_line(kSetUp).size(), 0, point);
  }

  testing::TemporaryDirectory directory_;
};

TEST_F(ResumeVerifierTest, SaysSoWithTheLastLine) {
  write(step_line(1) + "\n" + step_line(2) + "\n" + validation_line(2) + "\n",
        record(1) + "\n" + record(2) + "\n");
  EXPECT_TRUE(keep());
  ResumeVerifier verifier(output(), kRanks);
  ASSERT_TRUE(verifier.pending());
  for (const int step : {1, 2}) {
    EXPECT_FALSE(verifier.ledger_line(record(step)));
    EXPECT_FALSE(verifier.metrics_line(step_line(step, "0.5", 7.0)));
  }
  const auto verdict = verifier.metrics_line(validation_line(2));
  ASSERT_TRUE(verdict.has_value());
  EXPECT_TRUE(verdict->verified());
  EXPECT_EQ(verdict->fields(),
            R"("step":2,"resume_verified":true,"from":1,"to":2,"bits_promised":true)");
  EXPECT_FALSE(verifier.pending());
  EXPECT_FALSE(verifier.metrics_line(step_line(3)));
}

TEST_F(ResumeVerifierTest, NamesTheFirstFieldThatDiffersAndStops) {
  write(step_line(1) + "\n" + step_line(2, "0.1") + "\n" + step_line(3, "9") + "\n", "");
  EXPECT_TRUE(keep());
  ResumeVerifier verifier(output(), kRanks);
  EXPECT_FALSE(verifier.metrics_line(step_line(1)));
  const auto verdict = verifier.metrics_line(step_line(2, "0.10000000000000002"));
  ASSERT_TRUE(verdict.has_value());
  ASSERT_TRUE(verdict->difference.has_value());
  EXPECT_EQ(verdict->difference->step, 2);
  EXPECT_EQ(verdict->difference->line, "step");
  EXPECT_EQ(verdict->difference->field, "loss");
  EXPECT_EQ(verdict->difference->before, "0.1");
  EXPECT_EQ(verdict->difference->now, "0.10000000000000002");
  const auto line = nlohmann::json::parse("{" + verdict->fields() + "}");
  EXPECT_EQ(line["resume_verified"], false);
  EXPECT_EQ(line["field"], "loss");
  EXPECT_FALSE(verifier.metrics_line(step_line(3)));
}

TEST_F(ResumeVerifierTest, AFieldThatOneLineLacks) {
  write("", record(1) + "\n" + record(2, "overflow") + "\n");
  EXPECT_TRUE(keep());
  ResumeVerifier verifier(output(), kRanks);
  // Hashes of parameters are compared only where both attempts took them.
  EXPECT_FALSE(verifier.ledger_line(record(1, "applied", R"(,"parameter_hashes":["1"])")));
  const auto verdict = verifier.ledger_line(record(2, "overflow", R"(,"ranks":2)"));
  ASSERT_TRUE(verdict && verdict->difference);
  EXPECT_EQ(verdict->difference->line, "ledger");
  EXPECT_EQ(verdict->difference->field, "ranks");
  EXPECT_EQ(verdict->difference->before, "absent");
  EXPECT_EQ(verdict->difference->now, "2");
}

TEST_F(ResumeVerifierTest, NothingOrATornLineIsNothingToCompare) {
  for (const std::string& torn : {std::string(), step_line(1), std::string("{\"event\":\"st")}) {
    write(torn, torn);
    EXPECT_TRUE(keep());
    EXPECT_FALSE(ResumeVerifier(output(), kRanks).pending()) << torn;
  }
}

TEST_F(ResumeVerifierTest, ALineWithoutCounterpartIsPassedOver) {
  write(step_line(2) + "\n" + validation_line(2) + "\n" + step_line(4) + "\n", "");
  EXPECT_TRUE(keep());
  ResumeVerifier verifier(output(), kRanks);
  EXPECT_FALSE(verifier.metrics_line(step_line(1)));
  EXPECT_FALSE(verifier.metrics_line(step_line(3)));
  const auto verdict = verifier.metrics_line(step_line(4));
  ASSERT_TRUE(verdict.has_value());
  EXPECT_TRUE(verdict->verified());
  EXPECT_EQ(verdict->from, 4);
}

// Killed at step 2 of 4 while computing again: steps 3 and 4 are still to be compared, and 1 and 2
// now with what the second attempt wrote.
TEST_F(ResumeVerifierTest, WhatAKilledResumeLeftOverIsCompared) {
  std::string first;
  for (const int step : {1, 2, 3, 4})
    first += step_line(step, "0.1") + "\n";
  write(first + validation_line(2) + "\n", "");
  EXPECT_TRUE(keep());
  write(step_line(1, "0.7") + "\n" + step_line(2, "0.8") + "\n", "");
  EXPECT_TRUE(keep());
  EXPECT_TRUE(keep());  // killed between that and the cut
  ResumeVerifier verifier(output(), kRanks);
  EXPECT_FALSE(verifier.metrics_line(step_line(1, "0.7")));
  EXPECT_FALSE(verifier.metrics_line(step_line(2, "0.8")));
  EXPECT_FALSE(verifier.metrics_line(step_line(3, "0.1")));
  const auto verdict = verifier.metrics_line(step_line(4, "0.1"));
  ASSERT_TRUE(verdict.has_value());
  EXPECT_TRUE(verdict->verified());
  EXPECT_EQ(verdict->from, 1);
  EXPECT_EQ(verdict->to, 4);
}

TEST_F(ResumeVerifierTest, AnotherSetUpPromisesNoBits) {
  write(step_line(1) + "\n", record(1) + "\n");
  EXPECT_FALSE(keep({.step = 0, .set_up = kSetUp + 1, .left_out = nullptr}));
  EXPECT_FALSE(keep());  // what was not promised once stays so
  ResumeVerifier verifier(output(), kRanks);
  EXPECT_FALSE(verifier.bits_promised());
  EXPECT_FALSE(verifier.ledger_line(record(1, "overflow")));  // it names the set-up
  const auto verdict = verifier.metrics_line(step_line(1));
  ASSERT_TRUE(verdict.has_value());
  EXPECT_TRUE(verdict->verified());
  EXPECT_FALSE(verdict->bits_promised);

  remove_cut_lines(output());
  EXPECT_TRUE(keep());
  remove_cut_lines(output());
  write(fmt::format(R"({{"event":"resume","step":0,"bits_promised":false,"set_up":"{}"}})",
                    core::to_hex(kSetUp)) +
            "\n" + step_line(1) + "\n",
        "");
  EXPECT_FALSE(keep());
  remove_cut_lines(output());
  EXPECT_FALSE(keep({.step = 0, .set_up = kSetUp, .bits_promised = false, .left_out = nullptr}));
}

TEST_F(ResumeVerifierTest, FromAStepNewlyLeftOutOnNothingIsKept) {
  write(step_line(1) + "\n" + step_line(2) + "\n" + step_line(3) + "\n",
        record(1, "left_out") + "\n" + record(2) + "\n" + record(3) + "\n");
  EXPECT_TRUE(keep({.step = 0, .set_up = kSetUp, .left_out = [](std::int64_t step) {
                      return step == 1 || step == 3;
                    }}));
  ResumeVerifier verifier(output(), kRanks);
  EXPECT_FALSE(verifier.ledger_line(record(1, "left_out")));
  EXPECT_FALSE(verifier.metrics_line(step_line(1)));
  EXPECT_FALSE(verifier.ledger_line(record(2)));
  const auto verdict = verifier.metrics_line(step_line(2));
  ASSERT_TRUE(verdict.has_value());
  EXPECT_TRUE(verdict->verified());
  EXPECT_EQ(verdict->to, 2);
}

// D4: where an overflow was found says who looked; it is compared when as many looked again.
TEST_F(ResumeVerifierTest, WhereAnOverflowWasFoundCountsAtEqualRanksAlone) {
  const auto overflow = [](int rank) {
    return fmt::format(R"({{"event":"step","step":1,"overflow":true,"overflow_rank":{}{}}})", rank,
                       rank == 0 ? "" : R"(,"overflow_bucket":"block.1","overflow_tensor":"t")");
  };
  const auto verdict_of = [&](int wrote, int reads) {
    const std::string line =
        fmt::format(R"({{"event":"run","ranks":{},"set_up":"{}"}})", wrote, core::to_hex(kSetUp)) +
        "\n";
    std::filesystem::remove_all(directory_.path() / "cut");
    for (const auto& [name, text] :
         {std::pair<std::string, std::string>{"metrics.jsonl", line + overflow(1) + "\n"},
          {"ledger.jsonl", record(1, "overflow") + "\n"}}) {
      std::filesystem::remove(directory_.path() / name);
      directory_.write(name, text);
    }
    EXPECT_TRUE(keep_cut_lines(output(), line.size(), 0,
                               {.step = 0, .set_up = kSetUp, .ranks = reads, .left_out = nullptr}));
    ResumeVerifier verifier(output(), reads);
    EXPECT_FALSE(verifier.ledger_line(record(1, "overflow")));
    const auto verdict = verifier.metrics_line(overflow(0));
    EXPECT_TRUE(verdict.has_value());
    return verdict->verified();
  };
  EXPECT_FALSE(verdict_of(2, 2));
  EXPECT_TRUE(verdict_of(2, 3));
  EXPECT_TRUE(verdict_of(0, 2));  // not known
}

}  // namespace
}  // namespace lockstep::runtime
