#include <gmock/gmock.h>

#include <filesystem>
#include <string>
#include <vector>

#include "tests/support/training_test.h"

namespace lockstep::testing {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

class FlightTest : public TrainingTest {};

TEST_F(FlightTest, AHangNamesTheRankAndTheCollective) {
  const CommandResult run =
      train({.set = {"fault=[{kind: hang, step: 3, rank: 1}]", "parallel.timeout_seconds=3"},
             .ranks = 3});
  EXPECT_EQ(run.exit_code, 5) << run.err;

  const CommandResult flight = lockstep({"flight", path("run").string()});
  EXPECT_EQ(flight.exit_code, 0) << flight.err;
  EXPECT_THAT(flight.out,
              ContainsRegex("rank 1 has not entered reduce_scatter #[0-9]+ \\(head\\); it last "
                            "completed [a-z_]+ #[0-9]+ \\([a-z_.0-9]+\\); ranks 0, 2 wait in it "
                            "since [3-9]\\.[0-9] s"));

  const CommandResult json =
      lockstep({"flight", path("run").string(), "-o", "json", "--last", "5"});
  const auto parsed = nlohmann::json::parse(json.out);
  EXPECT_EQ(parsed["world_size"], 3);
  ASSERT_EQ(parsed["ranks"].size(), 3U);
  EXPECT_EQ(parsed["findings"].size(), 1U);
  const auto& waiting = parsed["ranks"][0]["pending"];
  EXPECT_EQ(waiting["operation"], "reduce_scatter");
  EXPECT_EQ(waiting["label"], "head");
  EXPECT_EQ(waiting["state"], "entered");
  EXPECT_TRUE(waiting["completed_ns"].is_null());
  EXPECT_EQ(parsed["ranks"][2]["records"].size(), 5U);
}

TEST_F(FlightTest, FilesThatCannotBeReadAreNamed) {
  must_train({.set = {"train.steps=6"}, .ranks = 2});
  const CommandResult whole = lockstep({"flight", path("run").string()});
  EXPECT_EQ(whole.exit_code, 0) << whole.err;
  EXPECT_THAT(whole.out, HasSubstr("all of these ranks have completed the same collectives"));
  EXPECT_THAT(whole.out, HasSubstr("last completed: barrier"));

  std::filesystem::resize_file(path("run/flight/rank-0001.bin"), 1000);
  const CommandResult cut = lockstep({"flight", path("run").string()});
  EXPECT_EQ(cut.exit_code, 3);
  EXPECT_THAT(cut.err, HasSubstr("rank-0001.bin: flight file of 1000 bytes"));
  EXPECT_THAT(cut.out, HasSubstr("rank 0 (host"));
  EXPECT_THAT(cut.out, Not(HasSubstr("rank 1 (host")));

  std::filesystem::remove(path("run/flight/rank-0001.bin"));
  const CommandResult missing = lockstep({"flight", path("run").string()});
  EXPECT_EQ(missing.exit_code, 3);
  EXPECT_THAT(missing.err, HasSubstr("rank-0001.bin: not there, but the run has 2 ranks"));

  const CommandResult none = lockstep({"flight", path("elsewhere").string()});
  EXPECT_EQ(none.exit_code, 3);
  EXPECT_THAT(none.err, HasSubstr("elsewhere/flight"));
}

// The second sleeps on rank 1 count as that rank's compute, and as the other's waiting.
TEST_F(FlightTest, TimingLinesSayWhoWasSlow) {
  must_train({.set = {"train.steps=10", "train.validate_every=0",
                      "fault=[{kind: slow, step: 4, rank: 1}, {kind: slow, step: 8, rank: 1}]"},
              .ranks = 2});
  const auto lines = metrics("run", "timing");
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_EQ(lines[0]["step"], 10);
  EXPECT_EQ(lines[0]["steps"], 10);
  ASSERT_EQ(lines[0]["compute_seconds"].size(), 2U);
  EXPECT_GE(lines[0]["compute_seconds"][1].get<double>(), 0.2);
  EXPECT_LT(lines[0]["compute_seconds"][0].get<double>(), 0.15);
  EXPECT_GE(lines[0]["wait_seconds"][0].get<double>(), 0.15);
  EXPECT_LT(lines[0]["wait_seconds"][1].get<double>(), 0.15);
}

}  // namespace
}  // namespace lockstep::testing
