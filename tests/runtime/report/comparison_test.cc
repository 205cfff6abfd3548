// The comparison of runs: statistics, alignment by tokens, the verdict.
#include "runtime/report/comparison.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <tuple>

#include "core/error.h"
#include "runtime/report/welch.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::runtime {
namespace {

using lockstep::testing::TemporaryDirectory;
using ::testing::HasSubstr;

TEST(WelchTest, StudentsDistribution) {
  // By mpmath 1.3 with 40 digits: the regularised incomplete beta function.
  for (const auto& [t, degrees, expected] : {std::tuple{0.1, 1.0, 0.93654896513889286},
                                             {1.0, 1.0, 0.5},
                                             {2.5, 3.7, 0.071822022911826773},
                                             {2.0, 30.0, 0.054625044962983104},
                                             {12.0, 4.0, 0.00027642854850297295},
                                             {0.5, 200.5, 0.61762338262320948},
                                             {40.0, 2.0, 0.00062441467218474064}}) {
    EXPECT_NEAR(student_two_sided(t, degrees), expected, 1e-12 * expected + 1e-15) << t;
    EXPECT_NEAR(student_quantile(expected, degrees), t, 1e-9 * t);
  }
}

TEST(WelchTest, TwoSamples) {
  const std::vector<double> first = {1.52, 1.49, 1.55, 1.50}, second = {1.44, 1.47, 1.41};
  const WelchTest test = welch_test(first, second, 0.95);  // by mpmath, too
  EXPECT_NEAR(test.difference, -0.075, 1e-14);
  EXPECT_NEAR(test.p_value, 0.0253845586469997, 1e-12);
  EXPECT_NEAR(test.low, -0.13500775615758, 1e-11);
  EXPECT_NEAR(test.high, -0.0149922438424202, 1e-11);
  const std::vector<double> same = {1.5, 1.5};
  EXPECT_EQ(welch_test(same, same, 0.95).p_value, 1.0);
}

class ComparisonTest : public ::testing::Test {
 protected:
  // A run whose validation loss falls to `final_loss`; every step counts 100 tokens.
  ReportRun run(const std::string& name, int steps, double final_loss) {
    std::string lines = "{\"event\":\"run\",\"ranks\":2}\n";
    for (int step = 10; step <= steps; step += 10) {
      lines += fmt::format(R"({{"event":"step","step":{},"applied":true,"loss":3,"tokens":100,)"
                           R"("step_seconds":2}})"
                           "\n",
                           step);
      lines += fmt::format("{{\"event\":\"validation\",\"step\":{},\"loss\":{}}}\n", step,
                           final_loss + 0.01 * (steps - step));
    }
    directory_.write(name + "/metrics.jsonl", lines);
    ReportRun run(directory_ / name);
    run.refresh();
    return run;
  }
  std::vector<ReportRun> group(const std::string& name, std::vector<double> losses,
                               int steps = 100) {
    std::vector<ReportRun> runs;
    for (const double loss : losses)
      runs.push_back(run(fmt::format("{}{}", name, runs.size()), steps, loss));
    return runs;
  }
  TemporaryDirectory directory_;
};

TEST_F(ComparisonTest, GroupsOfSeeds) {
  const auto a = group("a", {1.52, 1.49, 1.55, 1.50});
  const Comparison c = compare_runs(a, group("b", {1.44, 1.47, 1.41}), 1.5);
  EXPECT_NEAR(c.difference, -0.075, 1e-12);
  EXPECT_NEAR(c.p_value.value(), 0.0253845586469997, 1e-10);
  EXPECT_EQ(c.verdict, "better");
  EXPECT_EQ(c.a[1].steps_to_target, 100);
  EXPECT_EQ(c.a[0].steps_to_target, std::nullopt);
  EXPECT_EQ(c.b[2].steps_to_target, 100);
  EXPECT_EQ(c.a[0].tokens_per_second, 50);
  EXPECT_EQ(c.a[0].rank_seconds_per_million, 1e6 * 2 / 50);
  ASSERT_EQ(c.curve.size(), 10U);
  EXPECT_EQ(c.curve.front().tokens, 1000);
  EXPECT_NEAR(c.curve.front().a, 1.515 + 0.9, 1e-12);
  EXPECT_EQ(compare_runs(group("x", {1.5, 1.6}), group("y", {1.51, 1.58}), {}).verdict, "noise");
}

// The run with more steps is judged where the other one ends.
TEST_F(ComparisonTest, AlignedByTokens) {
  const Comparison c = compare_runs(group("a", {1.5}, 50), group("b", {1.0}, 100), {});
  EXPECT_EQ(c.tokens, 5000);
  EXPECT_EQ(c.b[0].final_step, 50);
  EXPECT_NEAR(c.difference, 0.0, 1e-12);
  EXPECT_EQ(c.verdict, "noise");
  EXPECT_THAT(c.reason, HasSubstr("more seeds"));
}

TEST_F(ComparisonTest, ARunWithoutValidation) {
  directory_.write("v/metrics.jsonl", "{\"event\":\"step\",\"step\":1,\"loss\":2}\n");
  std::vector<ReportRun> runs = open_runs({(directory_ / "v").string()});
  runs[0].refresh();
  EXPECT_THROW(compare_runs(runs, runs, {}), core::Error);
}

}  // namespace
}  // namespace lockstep::runtime
