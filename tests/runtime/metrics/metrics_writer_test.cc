#include "runtime/metrics/metrics_writer.h"

#include <gtest/gtest.h>

#include <bit>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "core/error.h"
#include "runtime/metrics/progress_bar.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::runtime {
namespace {

using Json = nlohmann::ordered_json;

std::vector<std::string> lines_of(const std::filesystem::path& path) {
  std::istringstream in(testing::read_file(path));
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);)
    lines.push_back(line);
  return lines;
}

std::vector<std::string> keys_of(const Json& json) {
  std::vector<std::string> keys;
  for (const auto& item : json.items())
    keys.push_back(item.key());
  return keys;
}

StepMetrics sample() {
  StepMetrics m;
  m.step = 3;
  m.applied = true;
  m.applied_steps = 2;
  m.loss = 0.1 + 0.2;
  m.grad_norm = 1e-300;
  m.clip_coefficient = 1.0 / 3.0;
  m.learning_rate = 6e-4;
  m.loss_scale = 65536.0;
  m.tokens = 1000;
  m.step_seconds = 0.25;
  return m;
}

TEST(MetricsWriter, StepLine) {
  const testing::TemporaryDirectory directory;
  const auto path = directory / "metrics.jsonl";
  MetricsWriter writer(path.string(), 0);
  writer.step(sample());
  const std::vector<std::string> lines = lines_of(path);
  ASSERT_EQ(lines.size(), 1U);
  const Json json = Json::parse(lines[0]);
  EXPECT_EQ(keys_of(json), (std::vector<std::string>{
                               "event", "step", "applied", "applied_steps", "loss", "grad_norm",
                               "clip_coefficient", "learning_rate", "loss_scale", "overflow",
                               "diverged", "tokens", "tokens_per_second", "step_seconds"}));
  EXPECT_EQ(json["event"], "step");
  EXPECT_EQ(json["applied"], true);
  EXPECT_EQ(json["overflow"], false);
  EXPECT_EQ(json["tokens_per_second"].get<double>(), 4000.0);
  for (const auto& [key, expected] :
       {std::pair{"loss", 0.1 + 0.2}, {"grad_norm", 1e-300}, {"clip_coefficient", 1.0 / 3.0}}) {
    EXPECT_EQ(std::bit_cast<std::uint64_t>(json[key].get<double>()),
              std::bit_cast<std::uint64_t>(expected));
  }
  EXPECT_NE(lines[0].find("\"loss\":0.30000000000000004,"), std::string::npos);
  EXPECT_NE(lines[0].find("\"learning_rate\":0.0006,"), std::string::npos);  // the shortest form
}

TEST(MetricsWriter, NonFiniteNumbersAndSkipsAreNull) {
  const testing::TemporaryDirectory directory;
  const auto path = directory / "metrics.jsonl";
  MetricsWriter writer(path.string(), 0);
  StepMetrics m = sample();
  m.applied = false;
  m.clip_coefficient.reset();
  m.loss = std::numeric_limits<double>::quiet_NaN();
  m.grad_norm = std::numeric_limits<double>::infinity();
  m.diverged = true;
  writer.step(m);
  const Json json = Json::parse(lines_of(path).at(0));
  for (const char* key : {"loss", "grad_norm", "clip_coefficient"})
    EXPECT_TRUE(json[key].is_null()) << key;
  EXPECT_FALSE(json.contains("overflow_rank"));
}

TEST(MetricsWriter, OverflowNamesItsPlace) {
  const testing::TemporaryDirectory directory;
  const auto path = directory / "metrics.jsonl";
  MetricsWriter writer(path.string(), 0);
  StepMetrics m = sample();
  m.overflow = true;
  m.overflow_rank = 2;
  m.overflow_bucket = "block.7";
  m.overflow_tensor = "block.7.attention.qkv.weight";
  writer.step(m);
  m.overflow_rank.reset();
  writer.step(m);
  const std::vector<std::string> lines = lines_of(path);
  Json json = Json::parse(lines.at(0));
  EXPECT_EQ(json["overflow_rank"], 2);
  EXPECT_EQ(json["overflow_bucket"], "block.7");
  EXPECT_EQ(json["overflow_tensor"], "block.7.attention.qkv.weight");
  json = Json::parse(lines.at(1));
  EXPECT_TRUE(json["overflow_rank"].is_null());
}

TEST(MetricsWriter, OtherLines) {
  const testing::TemporaryDirectory directory;
  const auto path = directory / "metrics.jsonl";
  MetricsWriter writer(path.string(), 0);
  writer.validation(10, 2.5);
  writer.event("run", "");
  writer.event("resume", R"("step":3,"why":"x")");
  const std::vector<std::string> lines = lines_of(path);
  EXPECT_EQ(lines.at(0), R"({"event":"validation","step":10,"loss":2.5})");
  EXPECT_EQ(lines.at(1), R"({"event":"run"})");
  EXPECT_EQ(Json::parse(lines.at(2))["why"], "x");
}

TEST(MetricsWriter, CutsAndContinues) {
  const testing::TemporaryDirectory directory;
  const auto path = directory / "metrics.jsonl";
  std::uint64_t length = 0;
  {
    MetricsWriter writer(path.string(), 0);
    writer.validation(1, 1.0);
    length = writer.sync();
    EXPECT_EQ(length, std::filesystem::file_size(path));
    writer.validation(2, 2.0);
  }
  {
    MetricsWriter writer(path.string(), length);
    EXPECT_EQ(writer.sync(), length);
    writer.validation(3, 3.0);
  }
  const std::vector<std::string> lines = lines_of(path);
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(Json::parse(lines[1])["step"], 3);
  EXPECT_THROW(MetricsWriter(path.string(), 1U << 20), core::Error);
  EXPECT_THROW(MetricsWriter((directory / "no/such/folder").string(), 0), core::Error);
}

TEST(ProgressBar, ClockText) {
  EXPECT_EQ(ProgressBar::clock_text(0.0), "0:00");
  EXPECT_EQ(ProgressBar::clock_text(59.9), "0:59");
  EXPECT_EQ(ProgressBar::clock_text(61.0), "1:01");
  EXPECT_EQ(ProgressBar::clock_text(3599.0), "59:59");
  EXPECT_EQ(ProgressBar::clock_text(3723.0), "1:02:03");
  EXPECT_EQ(ProgressBar::clock_text(360000.0), "100:00:00");
}

}  // namespace
}  // namespace lockstep::runtime
