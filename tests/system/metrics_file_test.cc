// metrics.jsonl as the outside world reads it: names, order, types and meanings are fixed.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <cmath>
#include <regex>
#include <sstream>

#include "tests/support/training_test.h"

namespace lockstep {
namespace {

using nlohmann::ordered_json;
using testing::CommandResult;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

class MetricsFileTest : public testing::TrainingTest {
 protected:
  std::vector<std::string> lines(const std::string& output) const {
    std::vector<std::string> found;
    std::istringstream in(text(output + "/metrics.jsonl"));
    for (std::string line; std::getline(in, line);)
      found.push_back(line);
    return found;
  }
};

std::vector<std::string> names_of(const ordered_json& line) {
  std::vector<std::string> names;
  for (const auto& [name, value] : line.items())
    names.push_back(name);
  return names;
}

const std::vector<std::string> kStepFields = {"event",
                                              "step",
                                              "applied",
                                              "applied_steps",
                                              "loss",
                                              "grad_norm",
                                              "clip_coefficient",
                                              "learning_rate",
                                              "loss_scale",
                                              "overflow",
                                              "diverged",
                                              "tokens",
                                              "tokens_per_second",
                                              "step_seconds"};
const std::vector<std::string> kOverflowFields = {"overflow_rank", "overflow_bucket",
                                                  "overflow_tensor"};

TEST_F(MetricsFileTest, StepLines) {
  must_train({.set = {"clip.threshold=0.5"}, .ranks = 2});
  const auto steps = metrics("run", "step");
  ASSERT_EQ(steps.size(), 20U);
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const ordered_json& line = steps[i];
    EXPECT_THAT(names_of(line), ElementsAreArray(kStepFields));
    EXPECT_EQ(line["step"], i + 1);
    EXPECT_EQ(line["applied"], true);
    EXPECT_EQ(line["applied_steps"], i + 1);
    EXPECT_EQ(line["loss_scale"], 1);
    EXPECT_EQ(line["overflow"], false);
    EXPECT_EQ(line["diverged"], false);
    EXPECT_EQ(line["tokens"], 24 * kContext);
    const double norm = line["grad_norm"];
    EXPECT_EQ(line["clip_coefficient"], std::min(1.0, 0.5 / (norm + 1e-6)));
    EXPECT_DOUBLE_EQ(line["tokens_per_second"].get<double>() * line["step_seconds"].get<double>(),
                     24.0 * kContext);
    const double t = static_cast<double>(i + 1);
    const double rate =
        t <= 5 ? 1e-2 * t / 5 : 0.5e-2 * (1 + std::cos(3.14159265358979323846 * (t - 5) / 15));
    EXPECT_NEAR(line["learning_rate"].get<double>(), rate, 1e-15);
  }
  EXPECT_NEAR(steps[0]["loss"].get<double>(), std::log(64.0), 0.1);
}

TEST_F(MetricsFileTest, RunLineComesFirst) {
  must_train({.set = {"run.name=first"}, .ranks = 2});
  const std::string line = lines("run").front();
  EXPECT_THAT(line, ::testing::StartsWith(R"({"event":"run",)"));
  const ordered_json run = ordered_json::parse(line);
  for (const char* field : {"version", "compiler", "flags", "isa", "libraries", "hosts", "ranks",
                            "threads", "config_fingerprint"}) {
    EXPECT_TRUE(run.contains(field)) << field;
  }
  EXPECT_EQ(run["ranks"], 2);
  EXPECT_EQ(run["threads"], 1);
  EXPECT_EQ(metrics("run", "run").size(), 1U);
}

TEST_F(MetricsFileTest, ValidationLines) {
  must_train({.set = {"train.validate_every=8", "train.validate_batches=2"}});
  const auto validation = metrics("run", "validation");
  ASSERT_EQ(validation.size(), 3U);
  const int steps[] = {8, 16, 20};
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_THAT(names_of(validation[i]), ElementsAreArray({"event", "step", "loss"}));
    EXPECT_EQ(validation[i]["step"], steps[i]);
    EXPECT_TRUE(validation[i]["loss"].is_number());
  }
}

// Numbers read back to the same bits and are as short as that allows.
TEST_F(MetricsFileTest, NumbersAreTheShortestThatReadBack) {
  must_train({});
  const std::regex number(R"re("(?:loss|grad_norm|learning_rate)":([^,}]*))re");
  int checked = 0;
  for (const std::string& line : step_lines("run")) {
    for (std::sregex_iterator it(line.begin(), line.end(), number), end; it != end; ++it) {
      const std::string digits = (*it)[1];
      EXPECT_EQ(fmt::format("{}", std::stod(digits)), digits);
      ++checked;
    }
  }
  EXPECT_EQ(checked, 60);
}

TEST_F(MetricsFileTest, AnOverflow) {
  const CommandResult result =
      train({.set = {"precision.compute=fp16", "precision.loss_scale.initial=1024",
                     "fault=[{kind: overflow, step: 3, rank: 1, layer: 1},"
                     "{kind: overflow, step: 3, rank: 1, layer: 0},"
                     "{kind: overflow, step: 6, rank: 0, layer: 0},"
                     "{kind: overflow, step: 6, rank: 1, layer: 1}]"},
             .ranks = 2});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err,
              HasSubstr("overflow: rank 1, block 1 attention.qkv, 1 inf, scale 1024 -> 512\n"));
  EXPECT_THAT(result.err,
              HasSubstr("overflow: rank 0, block 0 attention.qkv, 1 inf, scale 512 -> 256\n"));

  std::vector<std::string> with_overflow = kStepFields;
  with_overflow.insert(with_overflow.end(), kOverflowFields.begin(), kOverflowFields.end());
  const auto steps = metrics("run", "step");
  ASSERT_EQ(steps.size(), 20U);
  for (const std::size_t step : {3U, 6U}) {
    const ordered_json& line = steps[step - 1];
    EXPECT_THAT(names_of(line), ElementsAreArray(with_overflow));
    EXPECT_EQ(line["overflow"], true);
    EXPECT_EQ(line["diverged"], false);
    EXPECT_EQ(line["applied"], false);
    EXPECT_EQ(line["applied_steps"], steps[step - 2]["applied_steps"]);
    EXPECT_TRUE(line["clip_coefficient"].is_null());
    EXPECT_TRUE(line["grad_norm"].is_null());
    EXPECT_TRUE(line["loss"].is_number());
    EXPECT_EQ(line["learning_rate"], steps[step]["learning_rate"]) << "the next step uses it";
    EXPECT_NE(line["learning_rate"], steps[step - 2]["learning_rate"]);
    EXPECT_EQ(line["tokens"], 24 * kContext);
  }
  // Backward meets the last block first; then the lowest rank counts.
  EXPECT_EQ(steps[2]["overflow_rank"], 1);
  EXPECT_EQ(steps[2]["overflow_bucket"], "block.1");
  EXPECT_EQ(steps[2]["overflow_tensor"], "block.1.attention.qkv.weight");
  EXPECT_EQ(steps[5]["overflow_rank"], 0);
  EXPECT_EQ(steps[5]["overflow_bucket"], "block.0");
  const double scales[] = {1024, 1024, 1024, 512, 512, 512, 256};
  for (std::size_t i = 0; i < 7; ++i)
    EXPECT_EQ(steps[i]["loss_scale"], scales[i]);
  EXPECT_EQ(steps.back()["applied_steps"], 18);
}

TEST_F(MetricsFileTest, ClipModes) {
  for (const char* mode : {"none", "value", "tensor_norm"}) {
    const std::string name = mode;
    std::vector<std::string> set = {"clip.mode=" + name};
    if (name != "none") set.emplace_back("clip.threshold=0.05");
    must_train({.set = set, .ranks = 2, .output = name});
    ASSERT_EQ(metrics(name, "step").size(), 20U);
    for (const ordered_json& line : metrics(name, "step")) {
      if (name == "tensor_norm") {
        EXPECT_LT(line["clip_coefficient"].get<double>(), 1.0);
        // No tensor's norm is above that of all.
        EXPECT_GE(line["clip_coefficient"].get<double>(),
                  0.05 / (line["grad_norm"].get<double>() + 1e-6));
      } else {
        EXPECT_EQ(line["clip_coefficient"], 1);
      }
    }
  }
}

TEST_F(MetricsFileTest, EveryStepsThinsOutStepLines) {
  must_train({.set = {"metrics.every_steps=8", "precision.compute=fp16",
                      "fault=[{kind: overflow, step: 11, rank: 0, layer: 0}]"}});
  std::vector<int> steps;
  for (const ordered_json& line : metrics("run", "step"))
    steps.push_back(line["step"]);
  EXPECT_THAT(steps, ElementsAreArray({8, 11, 16, 20}));
}

}  // namespace
}  // namespace lockstep
