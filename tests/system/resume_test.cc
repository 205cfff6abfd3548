// A run that was killed, or that ended, goes on from its checkpoints as if nothing had happened.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <stdexcept>
#include <thread>

#include "tests/support/training_test.h"

namespace lockstep {
namespace {

using testing::CommandResult;
using ::testing::HasSubstr;
using testing::TrainingCall;

class ResumeTest : public testing::TrainingTest {
 protected:
  static constexpr int kSteps = 40;

  void SetUp() override {
    TrainingTest::SetUp();
    set_ = {fmt::format("train.steps={}", kSteps),
            "checkpoint.every_steps=10",
            "checkpoint.keep=10",
            "model.dropout=0.1",
            "train.validate_every=15",
            "data.order=shuffled"};
  }

  void use(const std::string& setting) { set_.push_back(setting); }

  TrainingCall call(const std::string& output, int ranks) const {
    return {.set = set_, .ranks = ranks, .output = output};
  }

  // Trains until the last rank sleeps in step 26 and kills it there.
  void train_and_kill(const std::string& output, int ranks) const {
    TrainingCall interrupted = call(output, ranks);
    // Waits for its checkpoints, so that the last one is surely there.
    interrupted.set.emplace_back("checkpoint.async=false");
    interrupted.set.emplace_back(
        fmt::format("fault=[{{kind: slow, step: 26, rank: {}, layer: 0}}]", ranks - 1));
    testing::Command run(command_line(interrupted), command_options(interrupted));
    wait_for_step(output, 25);
    ASSERT_EQ(kill(ranks == 1 ? run.pid() : rank_process(ranks - 1), SIGKILL), 0);
    run.wait();
    ASSERT_EQ(step_lines(output).size(), 25U);
  }

  // Waits until a resume has cut the line of this step.
  void wait_for_no_step(const std::string& output, int step) const {
    const std::string mark = fmt::format(R"({{"event":"step","step":{},)", step);
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (text(output + "/metrics.jsonl").find(mark) != std::string::npos) {
      if (std::chrono::steady_clock::now() > deadline) throw std::runtime_error("nothing was cut");
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }

  void resume(const std::string& output, int ranks, const std::string& from) const {
    TrainingCall again = call(output, ranks);
    again.more = {"--resume", from};
    must_train(again);
  }

  // The lines of where attempts began, or of what they computed again.
  std::vector<nlohmann::ordered_json> resumes(const std::string& output, bool verdicts) const {
    auto lines = metrics(output, "resume");
    std::erase_if(lines,
                  [&](const auto& line) { return line.contains("resume_verified") != verdicts; });
    return lines;
  }

  void expect_undisturbed(const std::string& output, const std::string& expected) const {
    expect_same_run(output, expected, kSteps);
  }

  // Also what the optimizer remembers; only of runs with the same number of ranks.
  void expect_same_optimizer(const std::string& output, const std::string& expected) const {
    const auto files = optimizer_files(expected);
    EXPECT_FALSE(files.empty());
    EXPECT_TRUE(optimizer_files(output) == files);
  }

  std::map<std::string, std::string> optimizer_files(const std::string& output) const {
    std::map<std::string, std::string> files;
    const std::string directory = checkpoint_directory(output, kSteps);
    for (const auto& entry : std::filesystem::directory_iterator(directory)) {
      const std::string name = entry.path().filename().string();
      if (name.starts_with("optimizer")) files[name] = testing::read_file(entry.path());
    }
    return files;
  }

  std::vector<std::string> checkpoints(const std::string& output) const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path(output) / "checkpoints")) {
      names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  std::vector<std::string> set_;
};

TEST_F(ResumeTest, AKilledRunGoesOnFromAPath) {
  for (const int ranks : {1, 2}) {
    SCOPED_TRACE(ranks);
    const std::string whole = fmt::format("whole{}", ranks);
    const std::string killed = fmt::format("killed{}", ranks);
    must_train(call(whole, ranks));
    train_and_kill(killed, ranks);
    resume(killed, ranks, checkpoint_directory(killed, 20));
    expect_undisturbed(killed, whole);
    expect_same_optimizer(killed, whole);
    EXPECT_EQ(resumes(killed, false).size(), 1U);
    EXPECT_EQ(metrics(killed, "run").size(), 1U);
    const auto verdicts = resumes(killed, true);
    ASSERT_EQ(verdicts.size(), 1U);
    EXPECT_EQ(verdicts[0].dump(),
              R"({"event":"resume","step":25,"resume_verified":true,"from":21,"to":25,)"
              R"("bits_promised":true})");
    EXPECT_THAT(text(killed + "/logs/rank-0000.log"),
                HasSubstr("resume_verified: steps 21 to 25, computed again, are what they were"));
  }
}

TEST_F(ResumeTest, AKilledRunGoesOnFromItsNewestWholeCheckpoint) {
  must_train(call("whole", 2));
  train_and_kill("killed", 2);
  // Neither an unfinished nor a torn checkpoint counts.
  std::filesystem::create_directory(checkpoint_directory("killed", 30) + ".tmp-1");
  std::filesystem::resize_file(checkpoint_directory("killed", 20) + "/model.safetensors", 1000);
  TrainingCall again = call("killed", 2);
  again.more = {"--resume", "auto"};
  const CommandResult result = train(again);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("passing over " + checkpoint_directory("killed", 20)));
  EXPECT_THAT(result.err, HasSubstr("continuing after step 10"));
  expect_undisturbed("killed", "whole");
}

// A line that was altered, or computed wrongly then: told, and nothing else.
TEST_F(ResumeTest, AStepThatIsNotComputedAgainAlikeIsNamed) {
  must_train(call("whole", 2));
  train_and_kill("killed", 2);
  std::string lines = text("killed/metrics.jsonl");
  const std::size_t line = lines.find(R"({"event":"step","step":23,)");
  ASSERT_NE(line, std::string::npos);
  const std::string field = R"("grad_norm":)";
  lines.insert(lines.find(field, line) + field.size(), "1");
  std::filesystem::remove(path("killed/metrics.jsonl"));
  directory_.write("killed/metrics.jsonl", lines);
  TrainingCall again = call("killed", 2);
  again.more = {"--resume", "auto"};
  const CommandResult result = train(again);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("not resume_verified: step 23, computed again, differs: "
                                    "grad_norm of its step line was 1"));
  const auto verdicts = resumes("killed", true);
  ASSERT_EQ(verdicts.size(), 1U);
  EXPECT_EQ(verdicts[0]["resume_verified"], false);
  EXPECT_EQ(verdicts[0]["field"], "grad_norm");
  expect_undisturbed("killed", "whole");
}

// After a resume by hand from step 10, killed before step 20, the checkpoint of step 20 is of a
// past that was cut.
TEST_F(ResumeTest, AutoPassesOverACheckpointOfAnotherPast) {
  must_train(call("whole", 2));
  train_and_kill("killed", 2);
  TrainingCall by_hand = call("killed", 2);
  by_hand.more = {"--resume", checkpoint_directory("killed", 10)};
  by_hand.set.emplace_back("fault=[{kind: slow, step: 15, rank: 1, layer: 0}]");
  testing::Command run(command_line(by_hand), command_options(by_hand));
  wait_for_no_step("killed", 25);
  wait_for_step("killed", 14);
  ASSERT_EQ(kill(rank_process(1), SIGKILL), 0);
  run.wait();
  TrainingCall again = call("killed", 2);
  again.more = {"--resume", "auto"};
  const CommandResult result = train(again);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("passing over " + checkpoint_directory("killed", 20)));
  EXPECT_THAT(result.err, HasSubstr("do not reach it, or tell another past"));
  EXPECT_THAT(result.err, HasSubstr("continuing after step 10"));
  // Also with what the first attempt had computed.
  const auto verdicts = resumes("killed", true);
  ASSERT_EQ(verdicts.size(), 1U);
  EXPECT_EQ(verdicts[0]["resume_verified"], true);
  EXPECT_EQ(verdicts[0]["from"], 11);
  EXPECT_EQ(verdicts[0]["to"], 25);
  expect_undisturbed("killed", "whole");
}

TEST_F(ResumeTest, AnotherNumberOfRanksContinuesTheSameRun) {
  use("run.reproducible=ranks");
  use("precision.compute=bf16");
  must_train(call("whole", 1));
  train_and_kill("killed", 2);
  const int rank_counts[] = {1, 2, 4};
  for (const int ranks : rank_counts) {
    SCOPED_TRACE(ranks);
    const std::string output = fmt::format("ranks{}", ranks);
    std::filesystem::copy(path("killed"), path(output), std::filesystem::copy_options::recursive);
    resume(output, ranks, checkpoint_directory(output, 20));
    expect_undisturbed(output, "whole");
  }
}

TEST_F(ResumeTest, TheLossScaleContinuesToo) {
  use("precision.compute=fp16");
  use("precision.loss_scale.growth_interval=7");
  use("precision.loss_scale.initial=64");
  must_train(call("whole", 2));
  EXPECT_EQ(metrics("whole", "step").back()["loss_scale"], 64 * 32);
  train_and_kill("killed", 2);
  resume("killed", 2, checkpoint_directory("killed", 20));
  expect_undisturbed("killed", "whole");
}

TEST_F(ResumeTest, AutoWithoutACheckpointStartsAtStep1) {
  TrainingCall first = call("run", 1);
  first.more = {"--resume", "auto"};
  must_train(first);
  EXPECT_EQ(step_lines("run").size(), static_cast<std::size_t>(kSteps));
}

TEST_F(ResumeTest, AFinishedRunIsDoneAtOnce) {
  must_train(call("run", 2));
  const std::vector<std::string> lines = step_lines("run");
  const std::string ledger = text("run/ledger.jsonl");
  const std::string model = model_bytes("run", kSteps);
  for (const int ranks : {1, 2}) {
    resume("run", ranks, "auto");
    EXPECT_EQ(step_lines("run"), lines);
    EXPECT_EQ(text("run/ledger.jsonl"), ledger);
    EXPECT_TRUE(model_bytes("run", kSteps) == model);
  }
}

TEST_F(ResumeTest, ACheckpointOfAnotherOutputStartsANewOne) {
  must_train(call("first", 1));
  const std::string before = text("first/metrics.jsonl");
  resume("second", 1, checkpoint_directory("first", 20));
  EXPECT_EQ(text("first/metrics.jsonl"), before);
  const std::vector<std::string> whole = step_lines("first");
  EXPECT_EQ(step_lines("second"), std::vector<std::string>(whole.begin() + 20, whole.end()));
  EXPECT_TRUE(model_bytes("second", kSteps) == model_bytes("first", kSteps));
}

TEST_F(ResumeTest, RetentionKeepsTheNewest) {
  use("checkpoint.keep=2");
  use("checkpoint.every_steps=7");
  must_train(call("run", 2));
  // The two newest, and the newest that ten good steps have followed.
  EXPECT_EQ(checkpoints("run"), (std::vector<std::string>{"latest", "step-00000028",
                                                          "step-00000035", "step-00000040"}));
  EXPECT_EQ(text("run/checkpoints/latest"), "step-00000040\n");
}

// Step 30 was saved six good steps before the loss broke; ten had followed step 20.
TEST_F(ResumeTest, AfterADivergenceTheNewestHealthyCheckpointIsTaken) {
  TrainingCall breaking = call("run", 2);
  breaking.set.emplace_back("fault=[{kind: nan, step: 37, rank: 1, layer: 1}]");
  const CommandResult first = train(breaking);
  ASSERT_EQ(first.exit_code, 4) << first.err;
  EXPECT_THAT(first.err, HasSubstr("the output of block 1"));
  resume("run", 2, "auto");
  EXPECT_EQ(resumes("run", false).size(), 1U);
  EXPECT_EQ(resumes("run", false).front()["step"], 20);
  must_train(call("undisturbed", 2));
  expect_undisturbed("run", "undisturbed");
}

TEST_F(ResumeTest, AChangedModelOrChangedDataIsRefused) {
  must_train(call("run", 1));
  TrainingCall other = call("run", 1);
  other.more = {"--resume", checkpoint_directory("run", 20)};
  other.set.emplace_back("model.activation=relu");
  const CommandResult model = train(other);
  EXPECT_EQ(model.exit_code, 2);
  EXPECT_THAT(model.err, HasSubstr("model.activation"));

  other.set.back() = "optimizer.weight_decay=0.2";
  other.set.emplace_back("train.validate_every=0");
  const CommandResult decay = train(other);
  EXPECT_EQ(decay.exit_code, 0) << decay.err;
  const auto line = resumes("run", false);
  ASSERT_EQ(line.size(), 1U);
  EXPECT_THAT(line[0].dump(), HasSubstr("optimizer.weight_decay"));

  auto tokens = testing::structured_tokens(6000, kVocabulary);
  tokens[0] ^= 1;
  write_tokens("tokens.bin", tokens);
  const CommandResult data = train({.set = other.set, .more = other.more});
  EXPECT_NE(data.exit_code, 0);
  EXPECT_THAT(data.err, HasSubstr("tokens.bin"));
}

}  // namespace
}  // namespace lockstep
