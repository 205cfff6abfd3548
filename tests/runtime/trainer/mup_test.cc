// model.parametrization mup in whole runs.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "tests/support/training_world.h"

namespace lockstep::testing {
namespace {

TrainingRun run_of(const std::string& family, const std::vector<std::string>& more) {
  TrainingRun run;
  run.overrides = {"model.family=" + family, "train.steps=3"};
  run.overrides.insert(run.overrides.end(), more.begin(), more.end());
  return run;
}

// Bit for bit, training included, tied and untied.
TEST(Mup, TheBaseModelTrainsAsStandard) {
  TrainingWorld world(tiny_config());
  for (const std::string family : {"gpt", "llama"}) {
    const TrainingResult standard = world.train(run_of(family, {}));
    const TrainingResult base =
        world.train(run_of(family, {"model.parametrization=mup", "model.mup_base_width=32"}));
    ASSERT_FALSE(base.error) << base.message;
    EXPECT_EQ(base.state, standard.state) << family;
    EXPECT_EQ(base.step_lines(), standard.step_lines()) << family;
    const TrainingResult wide =
        world.train(run_of(family, {"model.parametrization=mup", "model.mup_base_width=16"}));
    ASSERT_FALSE(wide.error) << wide.message;
    EXPECT_NE(wide.state, standard.state) << family;
  }
}

// The first step of Adam moves every element by the learning rate, or not at all.
TEST(Mup, MatricesLearnAtTheRateOverTheMultiplier) {
  TrainingWorld world(tiny_config());
  TrainingRun run = run_of(
      "gpt", {"model.parametrization=mup", "model.mup_base_width=8", "schedule.name=constant",
              "schedule.warmup_steps=0", "optimizer.learning_rate=0.01", "optimizer.weight_decay=0",
              "clip.mode=none", "optimizer.eps=1e-20"});
  run.body = [](Rank& rank) {
    const models::ParameterTable& table = rank.trainer.table();
    std::vector<std::vector<float>> before;
    for (models::ParameterId id = 0; id < table.size(); ++id)
      before.push_back(rank.collect(id, -1));
    rank.trainer.step();
    for (models::ParameterId id = 0; id < table.size(); ++id) {
      const std::vector<float> after = rank.collect(id, -1);
      double most = 0.0;
      for (std::size_t i = 0; i < after.size(); ++i)
        most = std::max(most, std::abs(static_cast<double>(after[i]) -
                                       before[static_cast<std::size_t>(id)][i]));
      EXPECT_NEAR(most, 0.01 / table[id].width_multiplier, 1e-5) << table[id].name;
    }
    EXPECT_EQ(table[table.find("block.0.mlp.down.weight")].width_multiplier, 4.0);
  };
  const TrainingResult result = world.train(run);
  EXPECT_FALSE(result.error) << result.message;
}

TEST(Mup, SameBitsAtEveryRankCount) {
  TrainingWorld world(tiny_config());
  TrainingRun run = run_of("llama", {"model.parametrization=mup", "model.mup_base_width=8",
                                     "run.reproducible=ranks", "precision.compute=bf16"});
  const TrainingResult alone = world.train(run);
  ASSERT_FALSE(alone.error) << alone.message;
  run.ranks = 3;
  EXPECT_EQ(world.train(run).state, alone.state);
}

}  // namespace
}  // namespace lockstep::testing
