// `lockstep audit` finds the first step and field in which two runs differ.
#include <gmock/gmock.h>

#include "tests/support/training_test.h"

namespace lockstep {
namespace {

using testing::CommandResult;
using ::testing::HasSubstr;

class AuditTest : public testing::TrainingTest {
 protected:
  nlohmann::json audit(const std::string& first, const std::string& second, int exit_code) const {
    const CommandResult result =
        lockstep({"audit", path(first).string(), path(second).string(), "-o", "json"});
    EXPECT_EQ(result.exit_code, exit_code) << result.err;
    return nlohmann::json::parse(result.out, nullptr, false);
  }
};

TEST_F(AuditTest, EqualRuns) {
  must_train({.output = "a"});
  must_train({.output = "b"});
  EXPECT_EQ(audit("a", "b", 0)["equal"], true);
  EXPECT_EQ(audit("a/ledger.jsonl", "b", 0)["equal"], true);
}

TEST_F(AuditTest, EqualAtOtherRanksIfReproducible) {
  must_train({.set = {"run.reproducible=ranks"}, .output = "a"});
  must_train(
      {.set = {"run.reproducible=ranks", "parallel.zero_stage=0"}, .ranks = 3, .output = "b"});
  EXPECT_EQ(audit("a", "b", 0)["equal"], true);
}

TEST_F(AuditTest, AnotherLearningRate) {
  must_train({.output = "a"});
  must_train({.set = {"optimizer.learning_rate=2e-2"}, .output = "b"});
  const auto json = audit("a", "b", 1);
  EXPECT_EQ(json["equal"], false);
  EXPECT_EQ(json["step"], 1);
  EXPECT_EQ(json["field"], "learning_rate");
  EXPECT_EQ(json["first"], "0.002");
  EXPECT_EQ(json["second"], "0.004");
  const CommandResult table = lockstep({"audit", path("a").string(), path("b").string()});
  EXPECT_EQ(table.exit_code, 1);
  EXPECT_THAT(table.out, HasSubstr("first difference at step 1: learning_rate: 0.002 against"));
}

// The schedules part at step 11; until then the runs take the same decisions.
TEST_F(AuditTest, ADifferenceInTheMiddle) {
  const std::vector<std::string> same = {"precision.compute=fp16"};
  must_train({.set = same, .output = "a"});
  must_train(
      {.set = {same[0], "fault=[{kind: overflow, step: 11, rank: 0, layer: 1}]"}, .output = "b"});
  const auto json = audit("a", "b", 1);
  EXPECT_EQ(json["step"], 11);
  EXPECT_EQ(json["field"], "outcome");
}

// One that is the beginning of the other: no difference, but it is said what was not compared.
TEST_F(AuditTest, AShorterRun) {
  must_train({.output = "a"});
  const std::string ledger = text("a/ledger.jsonl");
  directory_.write("b.jsonl", ledger.substr(0, ledger.rfind('\n', ledger.size() - 2) + 1));
  const CommandResult result = lockstep({"audit", path("a").string(), path("b.jsonl").string()});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("no difference in the 19 steps that both have (20 and 19)"));
  EXPECT_THAT(result.out, HasSubstr("goes on: 1 more, compared with nothing"));
}

TEST_F(AuditTest, AnAlteredLedgerIsRefused) {
  must_train({.output = "a"});
  std::string ledger = text("a/ledger.jsonl");
  ledger[ledger.find("\"loss\":") + 9] ^= 1;
  directory_.write("altered.jsonl", ledger);
  const CommandResult altered =
      lockstep({"audit", path("a").string(), path("altered.jsonl").string()});
  EXPECT_EQ(altered.exit_code, 3);
  EXPECT_THAT(altered.err, HasSubstr("line 1 (step 1): the chain is broken"));
  EXPECT_EQ(lockstep({"audit", path("a").string(), path("nowhere").string()}).exit_code, 3);
}

}  // namespace
}  // namespace lockstep
