// `lockstep replay` on the bundles of real runs under mpirun.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <filesystem>

#include "tests/support/training_test.h"

namespace lockstep {
namespace {

using ::testing::AllOf;
using testing::CommandResult;
using ::testing::HasSubstr;
using testing::Launch;
using testing::TrainingCall;
using Json = nlohmann::ordered_json;

class ReplayTest : public testing::TrainingTest {
 protected:
  std::string bundle(int step) const {
    return path(fmt::format("run/replay/step-{:08}", step)).string();
  }
  Json replay(int step) const {
    const CommandResult result = lockstep({"replay", bundle(step), "-o", "json"});
    EXPECT_EQ(result.exit_code, 0) << result.out << result.err;
    return Json::parse(result.out, nullptr, false);
  }
  static const Json& layer(const Json& list, const std::string& name) {
    for (const Json& one : list) {
      if (one["layer"] == name) return one;
    }
    throw std::runtime_error("no layer " + name);
  }
};

TEST_F(ReplayTest, AnOverflowOfFourRanksInOneProcess) {
  must_train(
      {.set = {"precision.compute=fp16", "run.reproducible=ranks", "train.steps=5",
               "schedule.warmup_steps=2", "fault=[{kind: overflow, step: 4, rank: 2, layer: 1}]"},
       .ranks = 4});
  std::filesystem::remove(path("tokens.bin"));
  const Json json = replay(4);
  EXPECT_EQ(json["outcome"], "overflow");
  EXPECT_EQ(json["ranks"], 4);
  EXPECT_EQ(json["bits_must_be_equal"], true);
  EXPECT_EQ(json["reproduced"], true);
  for (const Json& number : json["numbers"])
    EXPECT_EQ(number["same_bits"], true) << number.dump();
  EXPECT_EQ(json["numbers"][0]["recorded"], metrics("run", "step")[3]["loss"]);
  const Json& found = layer(json["gradients"], "block.1");
  EXPECT_EQ(found["inf"], 1);
  EXPECT_EQ(found["first"]["rank"], 2);
  EXPECT_EQ(found["first"]["tensor"], "block.1.attention.qkv.weight");
  EXPECT_EQ(layer(json["gradients"], "block.0")["inf"], 0);
  EXPECT_GT(layer(json["activations"], "block.0")["max"], 0.0);
}

TEST_F(ReplayTest, ADivergedRunNamesTheBlock) {
  const CommandResult run =
      train({.set = {"fault=[{kind: nan, step: 3, rank: 1, layer: 1}]"}, .ranks = 2});
  EXPECT_EQ(run.exit_code, 4);
  EXPECT_THAT(run.err, HasSubstr("lockstep replay " + bundle(3)));
  const CommandResult table = lockstep({"replay", bundle(3)});
  EXPECT_EQ(table.exit_code, 0) << table.err;
  EXPECT_THAT(table.out, AllOf(HasSubstr("step 3: diverged, which ended the run"),
                               HasSubstr("rank 1 non-finite losses: 1 micro-batches, first in "
                                         "block.1"),
                               HasSubstr("reproduced bit for bit")));
  EXPECT_EQ(layer(replay(3)["activations"], "block.0")["nan"], 0);
}

TEST_F(ReplayTest, WhatIsNoBundle) {
  must_train(
      {.set = {"fault=[{kind: overflow, step: 2}]", "train.steps=3", "schedule.warmup_steps=1"}});
  const CommandResult run = lockstep({"replay", path("run").string()});
  EXPECT_EQ(run.exit_code, 3);
  EXPECT_THAT(run.err, HasSubstr("it holds the bundle " + bundle(2)));
  std::filesystem::resize_file(bundle(2) + "/weights.safetensors", 100);
  const CommandResult torn = lockstep({"replay", bundle(2)});
  EXPECT_EQ(torn.exit_code, 3);
  EXPECT_THAT(torn.err, HasSubstr("weights.safetensors: torn: expected "));
  EXPECT_EQ(lockstep({"replay"}).exit_code, 2);
}

}  // namespace
}  // namespace lockstep
