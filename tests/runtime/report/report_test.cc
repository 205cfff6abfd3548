// What reports are made of: curves, files that grow and are cut, the data of the page.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <iostream>

#include "core/error.h"
#include "runtime/report/page.h"
#include "runtime/report/report_data.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::runtime {
namespace {

using lockstep::testing::TemporaryDirectory;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

std::string step_line(int step, double loss, const char* more = R"("overflow":false)") {
  return fmt::format(R"({{"event":"step","step":{},"applied":true,"applied_steps":{},"loss":{},)"
                     R"("grad_norm":2,"clip_coefficient":0.5,"learning_rate":0.001,"loss_scale":1,)"
                     R"({},"diverged":false,"tokens":100,"tokens_per_second":50,"step_seconds":2}})"
                     "\n",
                     step, step, std::isnan(loss) ? "null" : fmt::format("{}", loss), more);
}

void append(const std::filesystem::path& file, const std::string& text) {
  std::ofstream(file, std::ios::binary | std::ios::app) << text;
}

TEST(ThinOutTest, KeepsExtremesEndsAndGaps) {
  Curve curve;
  for (int k = 0; k < 1'000'000; ++k)
    curve.add(k + 1, k == 123456 ? 9.0 : k == 654321 ? -9.0 : k == 777777 ? NAN : std::sin(k));
  const Curve thin = thin_out(curve, -INFINITY, INFINITY, 2000);
  EXPECT_LT(thin.x.size(), 2010U);
  EXPECT_GT(thin.x.size(), 1990U);
  EXPECT_EQ(thin.x.front(), 1);
  EXPECT_EQ(thin.x.back(), 1'000'000);
  EXPECT_TRUE(std::is_sorted(thin.x.begin(), thin.x.end()));
  EXPECT_EQ(thin.value(123457), 9.0);
  EXPECT_EQ(thin.value(654322), -9.0);
  EXPECT_TRUE(std::isnan(thin.value(777778)));
  const Curve part = thin_out(curve, 100, 199.5, 2000);
  EXPECT_EQ(part.x.size(), 100U);
  EXPECT_EQ(part.y[3], std::sin(102));
}

TEST(ThinOutTest, FewPoints) {
  EXPECT_TRUE(thin_out({}, 0, 1, 10).empty());
  EXPECT_THAT(thin_out({{5}, {NAN}}, 0, 10, 10).x, ElementsAre(5));
  EXPECT_THAT(thin_out({{1, 2, 3}, {1, 1, 1}}, 0, 10, 1).x, ElementsAre(1, 3));
}

TEST(RunCurvesTest, FollowsAFileThatGrowsAndIsCut) {
  TemporaryDirectory directory;
  RunCurves curves(directory.path());
  EXPECT_FALSE(curves.refresh());  // nothing there yet
  const auto file = directory / "metrics.jsonl";
  append(file, "{\"event\":\"run\",\"ranks\":2}\n" + step_line(1, 5.0) + step_line(2, NAN));
  const std::string half = step_line(3, 3.0);
  append(file, half.substr(0, 40));  // a line that is being written
  EXPECT_TRUE(curves.refresh());
  EXPECT_THAT(curves.curve("loss").x, ElementsAre(1, 2));
  EXPECT_TRUE(std::isnan(curves.curve("loss").y[1]));
  EXPECT_FALSE(curves.refresh());
  append(file, half.substr(40) + "{\"event\":\"validation\",\"step\":3,\"loss\":2.5}\n");
  EXPECT_TRUE(curves.refresh());
  EXPECT_THAT(curves.curve("loss").x, ElementsAre(1, 2, 3));
  EXPECT_THAT(curves.curve("tokens").y, ElementsAre(100, 200, 300));
  EXPECT_THAT(curves.curve("validation").y, ElementsAre(2.5));
  // A resume from step 1 writes other lines, and more of them than were there.
  directory.write("metrics.jsonl", "{\"event\":\"run\",\"ranks\":2}\n" + step_line(1, 5.0) +
                                       step_line(2, 4.5) + step_line(3, 4.0) + step_line(4, 3.5));
  EXPECT_TRUE(curves.refresh());
  EXPECT_THAT(curves.curve("loss").y, ElementsAre(5, 4.5, 4, 3.5));
  EXPECT_TRUE(curves.curve("validation").empty());
}

TEST(RunCurvesTest, StepsThatAreWrittenAnewReplaceTheOldOnes) {
  TemporaryDirectory directory;
  directory.write(
      "metrics.jsonl",
      step_line(10, 5.0) + step_line(20, 9.0) +
          "{\"event\":\"layers\",\"step\":20,\"layers\":[{\"name\":\"head\",\"grad_norm\":1}]}\n" +
          step_line(15, 4.0) +
          "{\"event\":\"layers\",\"step\":15,\"layers\":[{\"name\":\"head\",\"grad_norm\":2},"
          "{\"name\":\"block.0\",\"grad_norm\":null}]}\n");
  RunCurves curves(directory.path());
  curves.refresh();
  EXPECT_THAT(curves.curve("loss").x, ElementsAre(10, 15));
  EXPECT_THAT(curves.curve("tokens").y, ElementsAre(1000, 1500));  // steps between are like it
  EXPECT_THAT(curves.layers().steps, ElementsAre(15));
  EXPECT_THAT(curves.layers().values.at("grad_norm")[0], ElementsAre(2));
}

TEST(RunCurvesTest, NamesALineThatNoRunWrites) {
  TemporaryDirectory directory;
  directory.write("metrics.jsonl", step_line(1, 5.0) + "nonsense\n");
  RunCurves curves(directory.path());
  try {
    curves.refresh();
    FAIL() << "expected an error";
  } catch (const core::Error& error) {
    EXPECT_EQ(error.kind(), core::ErrorKind::kData);
    EXPECT_THAT(error.what(), HasSubstr("metrics.jsonl:2: expected a JSON object"));
  }
}

TEST(ReportDataTest, SaysWhyStepsWereNotApplied) {
  TemporaryDirectory directory;
  const char* overflow =
      R"("overflow":true,"overflow_rank":1,"overflow_bucket":"block.2","overflow_tensor":"block.2.mlp")";
  directory.write("r<1>/metrics.jsonl",
                  step_line(1, 5.0, overflow) +
                      R"({"event":"health","kind":"spike","step":2,"quantity":"loss","value":9,)"
                      R"("median":2,"limit":3,"largest_tensor":"head"})"
                      "\n" +
                      step_line(2, 9.0));
  std::string ledger;
  for (const char* rest : {R"(1,"outcome":"overflow","loss_scale":65536,"next_loss_scale":32768})",
                           R"(2,"outcome":"spike","loss_scale":1,"next_loss_scale":1})",
                           R"(3,"outcome":"applied","loss_scale":1,"next_loss_scale":1})",
                           R"(4,"outcome":"left_out","loss_scale":1,"next_loss_scale":1})"})
    ledger += fmt::format("{{\"version\":1,\"step\":{}\n", rest);
  directory.write("r<1>/ledger.jsonl", ledger);
  std::vector<ReportRun> runs = open_runs({(directory / "r<1>").string()});
  runs[0].refresh();
  const std::string text = report_json(runs, {});
  EXPECT_THAT(text, Not(HasSubstr("<")));
  const auto json = nlohmann::json::parse(text);
  const auto& unapplied = json["runs"][0]["unapplied"];
  EXPECT_EQ(json["runs"][0]["label"], "r<1>");
  EXPECT_EQ(unapplied["counts"], nlohmann::json({{"overflow", 1}, {"spike", 1}, {"left_out", 1}}));
  EXPECT_EQ(unapplied["rows"][0],
            nlohmann::json({1, "overflow", "rank 1, block.2.mlp, scale 65536 -> 32768"}));
  EXPECT_EQ(unapplied["rows"][1][2], "loss 9, median 2, limit 3; largest gradient in head");
  EXPECT_EQ(unapplied["rows"][2][2], "left out after a rollback");
  EXPECT_EQ(json["runs"][0]["curves"]["overflow"], nlohmann::json::parse("[[1],[1]]"));
}

TEST(ReportDataTest, ManyStepsAreAPageOfReasonableSize) {
  TemporaryDirectory directory;
  std::string metrics;
  for (int step = 1; step <= 200'000; ++step)
    metrics += step_line(step, step == 70'001 ? 77.5 : 2.0 + 0.001 * (step % 100));
  directory.write("long/metrics.jsonl", metrics);
  std::vector<ReportRun> runs = open_runs({(directory / "long").string()});
  const auto begin = std::chrono::steady_clock::now();
  runs[0].refresh();
  const std::string page = report_page(report_json(runs, {}));
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - begin;
  std::cout << fmt::format("{:.2f} s, {} KiB\n", time.count(), page.size() / 1024);
  EXPECT_LT(page.size(), 2'000'000U);
  EXPECT_THAT(page, HasSubstr("77.5"));
  for (const char* place : {"CONNECT", "STYLE", "CHARTS_STYLE", "CHARTS", "DATA", "SCRIPT"})
    EXPECT_THAT(page, Not(HasSubstr(fmt::format("{{{{{}}}}}", place)))) << "was not filled";
}

}  // namespace
}  // namespace lockstep::runtime
