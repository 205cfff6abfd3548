// A run that a step breaks goes back to a healthy checkpoint and leaves that step out, whatever
// kills it on the way.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include "tests/support/training_test.h"

namespace lockstep {
namespace {

using testing::CommandResult;
using ::testing::HasSubstr;
using testing::Launch;
using testing::TrainingCall;

constexpr int kSteps = 40;
constexpr int kBroken = 27;

class RollbackTest : public testing::TrainingTest {
 protected:
  // Healthy when step kBroken breaks the run: the checkpoint of step 15.
  static TrainingCall call(const std::string& output, int ranks, const std::string& policy,
                           const std::string& more_faults = "") {
    return {.set = {fmt::format("train.steps={}", kSteps), "checkpoint.every_steps=15",
                    "health.on_divergence=" + policy,
                    fmt::format("fault=[{{kind: nan, step: {}, rank: {}, layer: 1}}{}]", kBroken,
                                ranks - 1, more_faults)},
            .ranks = ranks,
            .launch = ranks == 2 ? Launch::kMpirun : Launch::kRanksOption,
            .output = output};
  }

  nlohmann::ordered_json the_rollback(const std::string& output) const {
    for (const auto& line : metrics(output, "health")) {
      if (line["kind"] == "rollback") return line;
    }
    return {};
  }

  void expect_left_out(const std::string& output) const {
    int step = 0;
    for (const auto& line : metrics(output, "step")) {
      EXPECT_EQ(line["step"], ++step);
      EXPECT_EQ(line["applied"], step != kBroken) << step;
    }
    EXPECT_EQ(step, kSteps);
  }
};

TEST_F(RollbackTest, EqualsARunThatSkipsTheStep) {
  for (const int ranks : {1, 2}) {
    SCOPED_TRACE(ranks);
    const std::string back = fmt::format("back{}", ranks);
    const std::string skip = fmt::format("skip{}", ranks);
    const CommandResult result = train(call(back, ranks, "rollback"));
    ASSERT_EQ(result.exit_code, 0) << result.err;
    EXPECT_THAT(result.err, HasSubstr("back to step 15, leaving out 27"));
    expect_left_out(back);
    const auto line = the_rollback(back);
    EXPECT_EQ(line["step"], kBroken);
    EXPECT_EQ(line["to"], 15);
    must_train(call(skip, ranks, "skip"));
    EXPECT_TRUE(model_bytes(back, kSteps) == model_bytes(skip, kSteps));
    const CommandResult audit = lockstep({"audit", back, skip});
    EXPECT_EQ(audit.exit_code, 1);
    EXPECT_THAT(audit.out, HasSubstr("27"));
    EXPECT_THAT(audit.out, HasSubstr("left_out"));
  }
}

// Killed in the first step after the one left out: no checkpoint has been taken since.
TEST_F(RollbackTest, SurvivesAKillBeforeTheNextCheckpoint) {
  must_train(call("undisturbed", 2, "rollback"));
  TrainingCall killed = call("killed", 2, "rollback", ", {kind: kill, step: 28, rank: 0}");
  killed.launch = Launch::kRanksOption;
  EXPECT_EQ(train(killed).exit_code, 5);
  EXPECT_EQ(step_lines("killed").size(), 27U);
  EXPECT_FALSE(the_rollback("killed").is_null());
  EXPECT_FALSE(std::filesystem::exists(checkpoint_directory("killed", 30)));
  // What was left out stays so, also without the policy, and without the fault.
  for (std::string& set : killed.set) {
    if (set.starts_with("health.")) set = "health.on_divergence=stop";
    if (set.starts_with("fault=")) set = "fault=[]";
  }
  killed.more = {"--resume", "auto"};
  const CommandResult resumed = train(killed);
  ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_THAT(resumed.err, HasSubstr("left out: steps 27"));
  expect_left_out("killed");
  EXPECT_EQ(step_lines("killed"), step_lines("undisturbed"));
  EXPECT_TRUE(model_bytes("killed", kSteps) == model_bytes("undisturbed", kSteps));
  EXPECT_EQ(lockstep({"audit", "killed", "undisturbed"}).exit_code, 0);
}

TEST_F(RollbackTest, WithNothingToGoBackToTheRunDiverged) {
  TrainingCall hopeless = call("hopeless", 2, "rollback");
  hopeless.set.emplace_back("checkpoint.every_steps=20");  // six applied steps have followed it
  const CommandResult result = train(hopeless);
  EXPECT_EQ(result.exit_code, 4) << result.err;
  EXPECT_THAT(result.err, HasSubstr("no healthy checkpoint to go back to"));
  EXPECT_THAT(result.err, HasSubstr("the output of block 1"));
}

}  // namespace
}  // namespace lockstep
