// 50 steps against what PyTorch made of the same models in fp64, from the same weights and tokens
// (tests/reference/make_pytorch_reference.py): pre- and post-norm GPT-2 and Llama with grouped
// queries, with warm-up and cosine, weight decay, label smoothing and clipping that binds.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "comm/make_communicator.h"
#include "core/log.h"
#include "core/memory.h"
#include "runtime/config/load_config.h"
#include "runtime/trainer/trainer.h"
#include "tests/support/recorded.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::runtime {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr double kLossTolerance = 1e-5;  // fp32 rounding itself is about 1e-7
constexpr double kNormTolerance = 1e-4;

fs::path recorded(const std::string& name) {
  return testing::recorded_file(name);
}

std::vector<Json> lines_of(const fs::path& path, const std::string& event) {
  std::vector<Json> lines;
  std::istringstream text(testing::read_file(path));
  for (std::string line; std::getline(text, line);) {
    Json json = Json::parse(line);
    if (json["event"] == event) lines.push_back(std::move(json));
  }
  return lines;
}

double relative_error(const Json& ours, const Json& theirs) {
  return std::abs(ours.get<double>() - theirs.get<double>()) / std::abs(theirs.get<double>());
}

class PyTorchCurveTest : public ::testing::TestWithParam<std::string> {
 protected:
  // Trains the recorded configuration and returns its metrics file.
  fs::path train(const std::vector<std::string>& extra) {
    const std::string name = GetParam();
    const std::string output = (directory_ / "run").string();
    fs::create_directories(output + "/checkpoints");
    std::vector<std::string> overrides = {
        "run.output=" + output, "data.train=" + recorded("tokens.bin").string(),
        "data.validation=" + recorded("tokens.bin").string(),
        "model.init_from=" + recorded(name + ".safetensors").string()};
    overrides.insert(overrides.end(), extra.begin(), extra.end());
    const Config config = load_config(recorded(name + ".yaml"), overrides);
    core::Logger log(0, 1, core::LogLevel::kError);
    core::MemoryTracker memory;
    const auto communicator = comm::make_communicator("self", nullptr, std::chrono::seconds(10));
    Trainer trainer(config, 2, *communicator, memory, log);
    trainer.start("\"test\":true");
    trainer.run();
    return fs::path(output) / "metrics.jsonl";
  }

  testing::TemporaryDirectory directory_;
};

TEST_P(PyTorchCurveTest, LossNormRateAndClippingFollow) {
  const fs::path metrics = train({});
  const Json reference = Json::parse(testing::read_file(recorded(GetParam() + ".json")));
  const std::vector<Json> steps = lines_of(metrics, "step");
  ASSERT_EQ(steps.size(), reference["steps"].size());
  int clipped = 0;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const Json& theirs = reference["steps"][i];
    SCOPED_TRACE("step " + theirs["step"].dump());
    EXPECT_LT(relative_error(steps[i]["loss"], theirs["loss"]), kLossTolerance);
    EXPECT_LT(relative_error(steps[i]["grad_norm"], theirs["grad_norm"]), kNormTolerance);
    EXPECT_LT(relative_error(steps[i]["clip_coefficient"], theirs["clip_coefficient"]),
              kNormTolerance);
    EXPECT_LT(relative_error(steps[i]["learning_rate"], theirs["learning_rate"]), 1e-14);
    clipped += steps[i]["clip_coefficient"].get<double>() < 1.0 ? 1 : 0;
  }
  EXPECT_GT(clipped, 10);
  EXPECT_LT(clipped, 50);
  const std::vector<Json> validation = lines_of(metrics, "validation");
  ASSERT_EQ(validation.size(), 1U);
  EXPECT_LT(relative_error(validation[0]["loss"], reference["final_loss"]), kLossTolerance);
}

// The comparison would notice a mistake: another decay gives another curve.
TEST_P(PyTorchCurveTest, AnotherWeightDecayDoesNotFollow) {
  const fs::path metrics = train({"optimizer.weight_decay=0.05"});
  const Json reference = Json::parse(testing::read_file(recorded(GetParam() + ".json")));
  const std::vector<Json> steps = lines_of(metrics, "step");
  EXPECT_GT(relative_error(steps.back()["loss"], reference["steps"].back()["loss"]),
            kLossTolerance);
}

INSTANTIATE_TEST_SUITE_P(Recorded, PyTorchCurveTest,
                         ::testing::Values("gpt_pre", "gpt_post", "llama"),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace lockstep::runtime
