#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <cstdlib>
#include <random>
#include <thread>

#include "coordinator/attempts/attempt_files.h"
#include "coordinator/attempts/supervised_attempts.h"
#include "tests/coordinator/attempts/attempt_engine.h"
#include "tests/support/training_test.h"

// Attempts of real training under an engine. All invariants are checked behind each test.
namespace lockstep::coordinator {
namespace {

using ::testing::HasSubstr;

class TrainingAttemptTest : public lockstep::testing::TrainingTest {
 protected:
  void SetUp() override {
    TrainingTest::SetUp();
    attempts_ = std::make_unique<SupervisedAttempts>(SupervisedAttemptsOptions{
        path("state").string(),
        std::filesystem::absolute(std::getenv("LOCKSTEP_BINARY")).string()});
    engine_ = std::make_unique<testing::AttemptEngine>(path("state").string(), *attempts_);
  }
  void TearDown() override {
    engine_->finish();
    engine_.reset();
    TrainingTest::TearDown();
  }

  // members: more of the configuration, in YAML.
  LaunchSpec launch(const std::string& output, int ranks, const std::string& members,
                    const std::string& resume = "never") {
    LaunchSpec spec;
    const int number = ++launched_;
    spec.output = path(output).string();
    std::string config = text("config.yaml");
    config.replace(config.find("steps: 20"), 9, "steps: 300");
    const std::string file = "tokens.bin";
    for (std::size_t at = config.find(file); at != std::string::npos;
         at = config.find(file, at + path(file).string().size()))
      config.replace(at, file.size(), path(file).string());
    const std::string run = "run: {";
    config.insert(config.find(run) + run.size(), "output: " + spec.output + ", ");
    spec.config_file =
        directory_.write("config" + std::to_string(number) + ".yaml", config + members).string();
    spec.resume = resume;
    spec.threads_per_rank = 1;
    spec.hosts = {{"here", "localhost", {}}};
    for (int slot = 0; slot < ranks; ++slot)
      spec.hosts[0].slots.push_back(slot);
    engine_->launch(spec);
    return spec;
  }
  AttemptStatus wait_for_end(const LaunchSpec& spec) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(120);
    AttemptStatus status;
    do {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      engine_->tick();
      status = attempts_->poll(spec.attempt);
    } while (status.phase != AttemptPhase::kEnded && std::chrono::steady_clock::now() < deadline);
    EXPECT_EQ(status.phase, AttemptPhase::kEnded);
    return status;
  }

  std::unique_ptr<SupervisedAttempts> attempts_;
  std::unique_ptr<testing::AttemptEngine> engine_;
  int launched_ = 0;
};

TEST_F(TrainingAttemptTest, F7_TheRankThatWasKilledIsNamedAmongFour) {
  const LaunchSpec run = launch("out", 4, "fault: [{kind: kill, step: 3, rank: 2}]\n");
  const AttemptStatus end = wait_for_end(run);
  EXPECT_EQ(end.exit.failing_rank, 2) << to_text(to_json(end));
  EXPECT_EQ(end.exit.category, FailureCategory::kRankSignal);
  EXPECT_EQ(end.exit.signal, SIGKILL);
}

TEST_F(TrainingAttemptTest, F7_TheWordsOfTheFirstErrorAreNamed) {
  const LaunchSpec run = launch("out", 2, "fault: [{kind: nan, step: 3, rank: 1, layer: 0}]\n");
  const AttemptStatus end = wait_for_end(run);
  EXPECT_EQ(end.exit.category, FailureCategory::kNumeric) << to_text(to_json(end));
  EXPECT_EQ(end.exit.code, 4);
  EXPECT_THAT(end.exit.message, HasSubstr("rank 1"));
  const LaunchSpec wrong = launch("other", 2, "no_such_key: 1\n");
  const AttemptStatus refused = wait_for_end(wrong);
  EXPECT_EQ(refused.exit.category, FailureCategory::kConfig) << to_text(to_json(refused));
  EXPECT_THAT(refused.exit.message, HasSubstr("no_such_key"));
}

TEST_F(TrainingAttemptTest, F9_TheHungRankIsNamedFromTheFlightRecorders) {
  const LaunchSpec run = launch("out", 3, "fault: [{kind: hang, step: 4, rank: 1}]\n");
  wait_for_step("out", 3);
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  StopRequest hang;
  hang.force = true;
  hang.cause = FailureCategory::kHang;
  attempts_->stop(run.attempt, hang);
  const AttemptStatus end = wait_for_end(run);
  EXPECT_EQ(end.exit.category, FailureCategory::kHang);
  EXPECT_EQ(end.exit.failing_rank, 1) << to_text(to_json(end));
  EXPECT_THAT(end.exit.message, HasSubstr("rank 1 has not entered"));
}

// Stopped at random moments until it is done, it is the run that was never stopped.
TEST_F(TrainingAttemptTest, F12_StoppingAndResumingAreBitIdentical) {
  must_train({.set = {"train.steps=300"}, .ranks = 2, .output = "whole"});
  std::mt19937 random(5);
  AttemptStatus end;
  int stops = 0;
  for (int attempt = 0; attempt < 30; ++attempt) {
    const LaunchSpec run = launch("cut", 2, "", "auto");
    if (attempt < 3) {
      wait_for_step("cut", 80 * attempt + 1 + static_cast<int>(random() % 60));
      engine_->cancel(run, 30 * kSecond);
    }
    end = wait_for_end(run);
    if (end.exit.category == FailureCategory::kDone) break;
    ASSERT_EQ(end.exit.category, FailureCategory::kStopped) << to_text(to_json(end));
    ++stops;
  }
  EXPECT_EQ(end.exit.category, FailureCategory::kDone);
  EXPECT_EQ(end.exit.step, 300);
  EXPECT_GT(stops, 0);
  expect_same_run("cut", "whole", 300);
}

}  // namespace
}  // namespace lockstep::coordinator
