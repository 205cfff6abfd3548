#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "runtime/checkpoint/checkpoint.h"
#include "tests/support/training_world.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

// Ten steps with a checkpoint after the fifth, which overflows on one rank.
TrainingRun ten_steps() {
  TrainingRun run;
  run.ranks = 2;
  run.append = "fault: [{kind: overflow, step: 5, rank: 0, layer: 1}]\n";
  run.overrides = {"train.steps=10",
                   "checkpoint.every_steps=5",
                   "run.reproducible=ranks",
                   "parallel.verify_every=2",
                   "precision.compute=fp16",
                   "precision.loss_scale.hysteresis=2",
                   "precision.loss_scale.growth_interval=3"};
  run.body = [](Rank& rank) { rank.trainer.run(); };
  return run;
}

std::string checkpoint_of(const TrainingResult& result, int step) {
  return fmt::format("{}/checkpoints/step-{:08}", result.output, step);
}

std::vector<std::string> last(const std::vector<std::string>& lines, std::size_t count) {
  return {lines.end() - static_cast<std::ptrdiff_t>(std::min(count, lines.size())), lines.end()};
}

TEST(Checkpoint, ResumesAtAnyRankCountAndStageRightAfterASkip) {
  TrainingWorld world(tiny_config());
  const TrainingResult whole = world.train(ten_steps());
  ASSERT_FALSE(whole.error) << whole.message;
  ASSERT_EQ(whole.step_lines().size(), 10U);
  EXPECT_EQ(whole.lines[4]["event"], "step");
  for (const auto& [ranks, stage] : {std::pair{2, 2}, {1, 0}, {3, 1}, {4, 2}, {3, 0}}) {
    SCOPED_TRACE(fmt::format("{} ranks, stage {}", ranks, stage));
    TrainingRun resumed = ten_steps();
    resumed.ranks = ranks;
    resumed.resume = checkpoint_of(whole, 5);
    resumed.overrides.push_back(fmt::format("parallel.zero_stage={}", stage));
    const TrainingResult result = world.train(resumed);
    ASSERT_FALSE(result.error) << result.message;
    EXPECT_EQ(result.state, whole.state);
    EXPECT_EQ(result.step_lines(), last(whole.step_lines(), 5));
    EXPECT_EQ(result.lines.at(1)["event"], "resume");
    EXPECT_EQ(result.lines.at(1)["step"], 5);
    EXPECT_EQ(read_file(checkpoint_of(result, 10) + "/model.safetensors"),
              read_file(checkpoint_of(whole, 10) + "/model.safetensors"));
  }
}

// In its own directory a resumed run continues ledger and metrics where the checkpoint was taken.
TEST(Checkpoint, ContinuesItsOwnFiles) {
  TrainingWorld world(tiny_config());
  TrainingRun run = ten_steps();
  run.output = "own";
  const TrainingResult whole = world.train(run);
  run.resume = checkpoint_of(whole, 5);
  run.ranks = 3;
  const TrainingResult again = world.train(run);
  ASSERT_FALSE(again.error) << again.message;
  EXPECT_EQ(again.ledger, whole.ledger);
  EXPECT_EQ(again.step_lines(), whole.step_lines());
  EXPECT_EQ(runtime::read_ledger(again.output + "/ledger.jsonl").size(), 10U);
}

TEST(Checkpoint, NotReproducibleAcrossRanksStillContinuesTheCurve) {
  TrainingWorld world(tiny_config());
  TrainingRun run;
  run.ranks = 2;
  run.overrides = {"train.steps=8", "checkpoint.every_steps=4", "parallel.grad_sync=boundary",
                   "optimizer.learning_rate=1e-3"};
  run.body = [](Rank& rank) { rank.trainer.run(); };
  const TrainingResult whole = world.train(run);
  run.resume = checkpoint_of(whole, 4);
  const TrainingResult same = world.train(run);
  EXPECT_EQ(same.state, whole.state);  // same ranks: same bits
  run.ranks = 4;
  run.overrides.push_back("parallel.zero_stage=0");
  const TrainingResult other = world.train(run);
  ASSERT_FALSE(other.error) << other.message;
  for (std::size_t i = 0; i < 4; ++i) {
    const auto a = nlohmann::json::parse(other.step_lines().at(i));
    const auto b = nlohmann::json::parse(whole.step_lines().at(4 + i));
    EXPECT_NEAR(a["loss"].get<double>() / b["loss"].get<double>(), 1.0, 1e-5);
  }
}

// Optimizers with other numbers of state tensors, down to none.
TEST(Checkpoint, EveryOptimizerResumesToTheSameBits) {
  TrainingWorld world(tiny_config());
  for (const char* optimizer :
       {"optimizer.name=sgd", "optimizer.name=lion", "optimizer.name=rmsprop"}) {
    TrainingRun run;
    run.ranks = 2;
    run.overrides = {"train.steps=4", "checkpoint.every_steps=2", optimizer};
    run.body = [](Rank& rank) { rank.trainer.run(); };
    const TrainingResult whole = world.train(run);
    ASSERT_FALSE(whole.error) << whole.message;
    run.resume = checkpoint_of(whole, 2);
    EXPECT_EQ(world.train(run).state, whole.state) << optimizer;
  }
}

TEST(Checkpoint, KeepsTheNewest) {
  TrainingWorld world(tiny_config());
  TrainingRun run;
  run.overrides = {"train.steps=6", "checkpoint.every_steps=1", "checkpoint.keep=2"};
  run.body = [](Rank& rank) { rank.trainer.run(); };
  const TrainingResult result = world.train(run);
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(result.output + "/checkpoints"))
    names.push_back(entry.path().filename().string());
  EXPECT_THAT(names, ::testing::UnorderedElementsAre("step-00000005", "step-00000006", "latest"));
  EXPECT_EQ(read_file(result.output + "/checkpoints/latest"), "step-00000006\n");
}

std::vector<std::string> files_of(const std::string& directory) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory))
    names.push_back(entry.path().filename().string());
  return names;
}

// verify_checkpoint refuses it by the file's name; the one before it is then the newest whole one.
void expect_passed_over(const TrainingResult& result, const std::string& file) {
  try {
    runtime::verify_checkpoint(runtime::read_manifest(checkpoint_of(result, 2)));
    ADD_FAILURE() << "accepted";
  } catch (const core::Error& error) {
    EXPECT_EQ(error.kind(), core::ErrorKind::kData);
    EXPECT_THAT(error.what(), HasSubstr(file));
  }
  core::Logger log(1, 2, core::LogLevel::kError);
  const auto found = runtime::newest_whole_checkpoint(result.output, log);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->state.step, 1);
}

TEST(Checkpoint, TornAlteredOrMissingFilesAreRefusedByName) {
  TrainingWorld world(tiny_config());
  TrainingRun run;
  run.ranks = 2;
  run.overrides = {"train.steps=2", "schedule.warmup_steps=1", "checkpoint.every_steps=1"};
  run.body = [](Rank& rank) { rank.trainer.run(); };
  const TrainingResult result = world.train(run);
  ASSERT_FALSE(result.error) << result.message;
  const std::string newest = checkpoint_of(result, 2);
  const std::vector<std::string> files = files_of(newest);
  ASSERT_GE(files.size(), 4U);
  for (const std::string& file : files) {
    const std::string path = newest + "/" + file;
    const std::string whole = read_file(path);
    const auto put = [&](const std::string& bytes) {
      fs::remove(path);
      std::ofstream(path, std::ios::binary) << bytes;
    };
    ASSERT_GT(whole.size(), 7U) << file;
    SCOPED_TRACE(file);
    put(whole.substr(0, whole.size() - 7));
    expect_passed_over(result, file);
    if (file != "manifest.json") {  // it holds the hashes of the others
      std::string altered = whole;
      altered[whole.size() / 2] = static_cast<char>(altered[whole.size() / 2] ^ 1);
      put(altered);
      expect_passed_over(result, file);
    }
    fs::remove(path);
    expect_passed_over(result, file);
    put(whole);
    EXPECT_NO_THROW(runtime::verify_checkpoint(runtime::read_manifest(newest)));
  }
}

TEST(Checkpoint, AChangedModelOrDataIsRefusedOtherChangesAreListed) {
  TrainingWorld world(tiny_config());
  TrainingRun run;
  run.ranks = 2;
  run.overrides = {"train.steps=2", "schedule.warmup_steps=1", "checkpoint.every_steps=1"};
  run.body = [](Rank& rank) { rank.trainer.run(); };
  const TrainingResult first = world.train(run);
  run.resume = checkpoint_of(first, 1);

  TrainingRun other_model = run;
  other_model.overrides.push_back("model.layers=3");
  TrainingResult refused = world.train(other_model);
  EXPECT_EQ(refused.error, core::ErrorKind::kConfig);
  EXPECT_THAT(refused.message, HasSubstr("model.layers was 2 and is now 3"));

  TrainingRun other_rate = run;
  other_rate.overrides.push_back("optimizer.learning_rate=5e-4");
  const TrainingResult accepted = world.train(other_rate);
  ASSERT_FALSE(accepted.error) << accepted.message;
  bool listed = false;
  for (const auto& change : accepted.lines.at(1)["changed"])
    listed = listed || (change["key"] == "optimizer.learning_rate" && change["before"] == "0.002" &&
                        change["after"] == "5e-4");
  EXPECT_TRUE(listed) << accepted.lines.at(1).dump();

  world.write_tokens(12);
  refused = world.train(run);
  EXPECT_EQ(refused.error, core::ErrorKind::kConfig);
  EXPECT_THAT(refused.message, HasSubstr("data file tokens.bin has changed"));
}

}  // namespace
}  // namespace lockstep::testing
