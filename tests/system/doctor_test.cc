// What `lockstep doctor` and `explain-step` say of real runs, and that what the doctor advises, applied,
// removes the finding.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <optional>

#include "tests/support/training_test.h"

namespace lockstep {
namespace {

using nlohmann::ordered_json;
using testing::CommandResult;
using ::testing::HasSubstr;
using testing::TrainingCall;

struct Case {
  std::string kind;
  std::string name;
  std::vector<std::string> set;
  int ranks = 1;
  bool may_fail = false;  // training, which then ends with exit code 4
  // What of the advice is applied, by key; empty: the cause goes otherwise.
  std::vector<std::string> advised{};
  std::vector<std::string> instead{};  // for what no setting of the run cures

  friend void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }
};

class DoctorTest : public testing::TrainingTest {
 protected:
  std::optional<ordered_json> examine(const std::string& output, const std::string& kind) {
    const CommandResult result = lockstep({"doctor", output, "-o", "json"});
    EXPECT_THAT(result.exit_code, ::testing::AnyOf(0, 1)) << result.err;
    const ordered_json document = ordered_json::parse(result.out);
    bool ill = false;
    std::optional<ordered_json> found;
    for (const ordered_json& finding : document["findings"]) {
      ill = ill || finding["severity"] != "info";
      if (finding["kind"] == kind) found = finding;
    }
    EXPECT_EQ(result.exit_code, ill ? 1 : 0);
    return found;
  }
};

class FindingRunTest : public DoctorTest, public ::testing::WithParamInterface<Case> {};

std::string key_of(const std::string& set) {
  return set.substr(0, set.find('='));
}

TEST_P(FindingRunTest, FindsItAndItsAdviceRemovesIt) {
  const Case& c = GetParam();
  TrainingCall call{.set = c.set, .ranks = c.ranks, .output = "ill"};
  call.set.emplace_back("metrics.per_layer_every=5");
  const CommandResult trained = train(call);
  ASSERT_TRUE(trained.exit_code == 0 || (c.may_fail && trained.exit_code == 4)) << trained.err;
  const auto found = examine("ill", c.kind);
  ASSERT_TRUE(found) << lockstep({"doctor", "ill"}).out;

  call.output = "cured";
  for (const ordered_json& advice : (*found)["advice"]) {
    const auto set = advice["set"].get<std::string>();
    for (const std::string& key : c.advised) {
      if (key_of(set) == key) call.set.push_back(set);
    }
  }
  ASSERT_EQ(call.set.size(), c.set.size() + 1 + c.advised.size()) << found->dump();
  call.set.insert(call.set.end(), c.instead.begin(), c.instead.end());
  must_train(call);
  EXPECT_FALSE(examine("cured", c.kind)) << lockstep({"doctor", "cured"}).out;
}

const std::string kLong = "train.steps=60";
const std::string kConstant = "schedule.name=constant";

// A drill of a second each; both fall into the second `timing` line.
const std::string kSlowSteps =
    "fault=[{kind: slow, step: 12, rank: 1}, {kind: slow, step: 13, rank: 1}]";

INSTANTIATE_TEST_SUITE_P(
    Runs, FindingRunTest,
    ::testing::Values(Case{"learning_rate_too_high",
                           "LearningRateTooHigh",
                           {kLong, kConstant, "schedule.warmup_steps=0",
                            "optimizer.learning_rate=1", "health.spike_factor=0"},
                           1,
                           false,
                           {"optimizer.learning_rate", "schedule.warmup_steps"}},
                      Case{"learning_rate_too_low",
                           "LearningRateTooLow",
                           {kLong, kConstant, "optimizer.learning_rate=1e-6"},
                           1,
                           false,
                           {"optimizer.learning_rate"}},
                      Case{"clipping_always",
                           "ClippingAlways",
                           {kLong, "clip.threshold=1e-3"},
                           2,
                           false,
                           {"clip.threshold"}},
                      Case{"loss_scale_thrash",
                           "LossScaleThrash",
                           {kLong, "precision.compute=fp16",
                            "precision.loss_scale.growth_interval=4",
                            "precision.loss_scale.initial=1048576"},
                           2,
                           false,
                           {"precision.loss_scale.growth_interval"}},
                      Case{"not_finite",
                           "NotFinite",
                           {"fault=[{kind: nan, step: 12, layer: 1}]"},
                           2,
                           true,
                           {"health.on_divergence"},
                           {"fault=[]"}},
                      Case{"slow_rank", "SlowRank", {kSlowSteps}, 2, false, {}, {"fault=[]"}}),
    [](const auto& each) { return each.param.name; });

TEST_F(DoctorTest, HasNoFindingAndItsStepsAreExplained) {
  must_train(
      {.set = {kLong, "metrics.per_layer_every=10", "clip.threshold=0.7", "metrics.every_steps=2"},
       .ranks = 2});
  const CommandResult healthy = lockstep({"doctor", "run"});
  EXPECT_EQ(healthy.exit_code, 0) << healthy.out;
  EXPECT_THAT(healthy.out, HasSubstr("nothing wrong in 60 steps of 60"));

  const CommandResult explained = lockstep({"explain-step", "run", "36", "-o", "json"});
  ASSERT_EQ(explained.exit_code, 0) << explained.err;
  const ordered_json step = ordered_json::parse(explained.out);
  ordered_json line;
  for (const ordered_json& each : metrics("run", "step")) {
    if (each["step"] == 36) line = each;
  }
  for (const char* field : {"loss", "grad_norm", "clip_coefficient", "learning_rate", "tokens"})
    EXPECT_EQ(step[field], line[field]) << field;
  EXPECT_DOUBLE_EQ(step["clipped_norm"].get<double>(),
                   line["grad_norm"].get<double>() * line["clip_coefficient"].get<double>());
  EXPECT_EQ(step["outcome"], "applied");
  EXPECT_EQ(step["layers"]["step"], 30);
  const ordered_json& largest = step["layers"]["largest"];
  ASSERT_EQ(largest.size(), 4U);
  for (std::size_t i = 1; i < largest.size(); ++i)
    EXPECT_GE(largest[i - 1]["grad_norm"], largest[i]["grad_norm"]);
  EXPECT_EQ(step["timing"]["up_to_step"], 40);
  ASSERT_EQ(step["sequences"].size(), 24U);
  EXPECT_THAT(step["sequences"][0]["file"].get<std::string>(), HasSubstr("tokens.bin"));
  EXPECT_EQ(step["sequences"][0]["first_token"].get<int>() % kContext, 0);

  EXPECT_THAT(lockstep({"explain-step", "run", "36"}).out, HasSubstr("largest gradients"));
  const CommandResult missing = lockstep({"explain-step", "run", "35"});
  EXPECT_EQ(missing.exit_code, 2);
  EXPECT_THAT(missing.err, HasSubstr("metrics.every_steps"));
  const CommandResult nowhere = lockstep({"doctor", "elsewhere"});
  EXPECT_EQ(nowhere.exit_code, 3);
  EXPECT_THAT(nowhere.err, HasSubstr("config.yaml"));
}

TEST_F(DoctorTest, AStepThatWasSkippedNamesTensorAndBundle) {
  must_train({.set = {"fault=[{kind: overflow, step: 9, layer: 1}]"}});
  const CommandResult result = lockstep({"explain-step", "run", "9", "-o", "json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const ordered_json step = ordered_json::parse(result.out);
  EXPECT_EQ(step["outcome"], "overflow");
  EXPECT_EQ(step["applied"], false);
  EXPECT_EQ(step["overflow_bucket"], "block.1");
  EXPECT_THAT(step["why"].get<std::string>(), HasSubstr("block.1"));
  EXPECT_THAT(step["replay"].get<std::string>(), HasSubstr("replay/step-00000009"));
  EXPECT_TRUE(step["clip_coefficient"].is_null());
}

}  // namespace
}  // namespace lockstep
