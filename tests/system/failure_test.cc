// What goes wrong ends the run with the exit code that is fixed for it and a message that helps.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <signal.h>

#include "tests/support/training_test.h"

namespace lockstep {
namespace {

using ::testing::AllOf;
using testing::CommandResult;
using ::testing::HasSubstr;
using testing::Launch;
using testing::TrainingCall;

std::size_t count_of(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
    ++count;
  }
  return count;
}

// "fault=[...]" with the same fault on each of the steps 1..last.
std::string on_every_step(const std::string& kind, int last) {
  std::string text;
  for (int step = 1; step <= last; ++step) {
    text += fmt::format("{}{{kind: {}, step: {}, rank: 0, layer: 1}}", step == 1 ? "" : ", ", kind,
                        step);
  }
  return "fault=[" + text + "]";
}

class FailureTest : public testing::TrainingTest {
 protected:
  // The message must be told once, also at two ranks.
  void expect_failure(const std::string& set, int exit_code, const std::string& message) const {
    const TrainingCall calls[] = {{.set = {set}},
                                  {.set = {set}, .ranks = 2, .launch = Launch::kMpirun}};
    for (const TrainingCall& call : calls) {
      SCOPED_TRACE(fmt::format("{} ranks, {}", call.ranks, set));
      const CommandResult result = train(call);
      EXPECT_EQ(result.exit_code, exit_code) << result.err;
      EXPECT_EQ(count_of(result.err, message), 1U) << message << "\nin\n" << result.err;
      EXPECT_EQ(result.out, "");
    }
  }
};

TEST_F(FailureTest, AWrongConfiguration) {
  expect_failure("optimizer.learning_rat=1", 2, "did you mean 'optimizer.learning_rate'?");
  // Before any rank is started.
  const CommandResult result = train({.set = {"optimizer.learning_rat=1"}, .ranks = 2});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(count_of(result.err, "configuration error"), 1U) << result.err;
}

TEST_F(FailureTest, MissingData) {
  expect_failure("data.train=nowhere.bin", 3, "nowhere.bin: expected a token file");
}

TEST_F(FailureTest, ATokenBeyondTheVocabulary) {
  auto tokens = testing::structured_tokens(6000, kVocabulary);
  tokens[5000] = kVocabulary;
  write_tokens("beyond.bin", tokens);
  expect_failure("data.train=beyond.bin", 3, "found id 64 at token 5000");
}

TEST_F(FailureTest, ATruncatedTokenFile) {
  directory_.write("odd.bin", text("tokens.bin") + "x");
  expect_failure("data.train=odd.bin", 3, "odd.bin");
}

TEST_F(FailureTest, ASequenceLongerThanTheData) {
  write_tokens("short.bin", testing::structured_tokens(kContext, kVocabulary));
  expect_failure("data.train=short.bin", 3, "short.bin");
}

TEST_F(FailureTest, RanksThatDoNotDivideTheBatch) {
  const CommandResult result = train({.ranks = 5});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("rank counts that fit: 1, 2, 3, 4, 6, 8, 12, 24\n"));
}

TEST_F(FailureTest, RanksUnderMpirun) {
  const CommandResult result =
      train({.ranks = 2, .launch = Launch::kMpirun, .more = {"--ranks", "2"}});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(count_of(result.err, "--ranks starts mpirun itself"), 1U) << result.err;
}

TEST_F(FailureTest, AnOutputThatHoldsARun) {
  must_train({});
  const std::string before = text("run/metrics.jsonl");
  for (const int ranks : {1, 2}) {
    const CommandResult result = train({.ranks = ranks});
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_THAT(result.err, AllOf(HasSubstr("already holds a run"), HasSubstr("--resume auto")));
  }
  EXPECT_EQ(text("run/metrics.jsonl"), before);
}

TEST_F(FailureTest, ATornCheckpoint) {
  must_train({.set = {"checkpoint.every_steps=10"}});
  const std::string model = checkpoint_directory("run", 10) + "/model.safetensors";
  const auto resume = [&](int ranks) {
    return train({.ranks = ranks, .more = {"--resume", checkpoint_directory("run", 10)}});
  };
  std::string bytes = testing::read_file(model);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  std::filesystem::remove(model);
  directory_.write(std::filesystem::relative(model, directory_.path()).string(), bytes);
  for (const int ranks : {1, 2}) {
    const CommandResult altered = resume(ranks);
    EXPECT_EQ(altered.exit_code, 3);
    EXPECT_THAT(altered.err, HasSubstr("model.safetensors is torn or altered"));
  }
  std::filesystem::resize_file(model, bytes.size() / 2);
  EXPECT_EQ(resume(1).exit_code, 3);
  std::filesystem::remove(model);
  EXPECT_EQ(resume(1).exit_code, 3);
  std::filesystem::remove(checkpoint_directory("run", 10) + "/manifest.json");
  const CommandResult without_manifest = resume(1);
  EXPECT_EQ(without_manifest.exit_code, 3);
  EXPECT_THAT(without_manifest.err, HasSubstr("manifest.json"));
}

TEST_F(FailureTest, Divergence) {
  for (const int ranks : {1, 2}) {
    const std::string output = fmt::format("ranks{}", ranks);
    const CommandResult result = train(
        {.set = {fmt::format("fault=[{{kind: nan, step: 7, rank: {}, layer: 0}}]", ranks - 1)},
         .ranks = ranks,
         .output = output});
    EXPECT_EQ(result.exit_code, 4);
    EXPECT_THAT(result.err,
                HasSubstr(fmt::format("step 7: the loss is not finite on rank {}", ranks - 1)));
    const auto steps = metrics(output, "step");
    ASSERT_EQ(steps.size(), 7U);
    EXPECT_EQ(steps.back()["diverged"], true);
    EXPECT_EQ(steps.back()["overflow"], false);
    EXPECT_EQ(steps.back()["applied"], false);
    EXPECT_TRUE(metrics(output, "checkpoint").empty());
  }
}

TEST_F(FailureTest, OverflowsAtTheMinimumScale) {
  for (const int ranks : {1, 2}) {
    const std::string output = fmt::format("ranks{}", ranks);
    const CommandResult result =
        train({.set = {"train.steps=60", "precision.compute=fp16", on_every_step("overflow", 60)},
               .ranks = ranks,
               .output = output});
    EXPECT_EQ(result.exit_code, 4);
    EXPECT_THAT(result.err, AllOf(HasSubstr("step 24: 8 overflows in a row at the minimum"),
                                  HasSubstr("block 1 attention.qkv")));
    const auto steps = metrics(output, "step");
    ASSERT_EQ(steps.size(), 24U);
    for (std::size_t i = 0; i < steps.size(); ++i) {
      EXPECT_EQ(steps[i]["loss_scale"], i < 16 ? std::ldexp(65536.0, -static_cast<int>(i)) : 1.0);
      EXPECT_EQ(steps[i]["applied_steps"], 0);
    }
  }
}

TEST_F(FailureTest, TooManySkipsInARow) {
  const std::vector<std::string> set = {"train.steps=60", "precision.compute=fp16",
                                        "precision.loss_scale.overflow_patience=1000"};
  std::vector<std::string> all = set;
  all.push_back(on_every_step("overflow", 60));
  const CommandResult result = train({.set = all, .ranks = 2});
  EXPECT_EQ(result.exit_code, 4);
  EXPECT_THAT(result.err, AllOf(HasSubstr("step 50: 50 steps in a row were skipped"),
                                HasSubstr("block 1 attention.qkv")));
  EXPECT_EQ(metrics("run", "step").size(), 50U);

  std::vector<std::string> fewer = set;
  fewer.push_back(on_every_step("overflow", 49));
  must_train({.set = fewer, .ranks = 2, .output = "recovers"});
  EXPECT_EQ(metrics("recovers", "step").back()["applied_steps"], 11);
}

struct FlippedBit {
  const char* compute;
  int stage;
  int ranks;
  int victim;
  std::vector<std::string> cadence;
  int found_at;
  std::vector<int> saved;
};

TEST_F(FailureTest, AFlippedBit) {
  const std::vector<std::string> verify = {"parallel.verify_every=4"};
  const std::vector<std::string> save = {"checkpoint.every_steps=3"};
  const FlippedBit cases[] = {
      {"fp32", 2, 2, 1, verify, 8, {}}, {"fp32", 2, 2, 0, save, 6, {3}},
      {"bf16", 0, 2, 1, save, 6, {3}},  {"fp16", 1, 3, 2, verify, 8, {}},
      {"bf16", 2, 3, 0, verify, 8, {}}, {"fp32", 0, 1, 0, save, 6, {3}},
  };
  for (const FlippedBit& one : cases) {
    const std::string output =
        fmt::format("{}.stage{}.rank{}of{}", one.compute, one.stage, one.victim, one.ranks);
    SCOPED_TRACE(output);
    std::vector<std::string> set = one.cadence;
    set.push_back(fmt::format("precision.compute={}", one.compute));
    set.push_back(fmt::format("parallel.zero_stage={}", one.stage));
    set.push_back(
        fmt::format("fault=[{{kind: bitflip, step: 5, rank: {}, layer: 1}}]", one.victim));
    const CommandResult result = train({.set = set, .ranks = one.ranks, .output = output});
    EXPECT_EQ(result.exit_code, 5) << result.err;
    EXPECT_THAT(
        result.err,
        AllOf(HasSubstr(fmt::format("step {}: rank {} disagrees", one.found_at, one.victim)),
              HasSubstr("block.1"), HasSubstr("step 5")));
    std::vector<int> saved;
    for (int step = 1; step <= 20; ++step) {
      if (std::filesystem::exists(checkpoint_directory(output, step))) saved.push_back(step);
    }
    EXPECT_EQ(saved, one.saved);
    EXPECT_EQ(metrics(output, "step").size(), static_cast<std::size_t>(one.found_at - 1));
  }
}

class LostRankTest : public FailureTest, public ::testing::WithParamInterface<int> {};

TEST_P(LostRankTest, EndsTheRunWith5) {
  const TrainingCall call{.set = {"train.steps=1000000"}, .ranks = 3};
  testing::Command run(command_line(call), command_options(call));
  wait_for_step("run", 5);
  ASSERT_EQ(kill(rank_process(GetParam()), SIGKILL), 0);
  const auto begin = std::chrono::steady_clock::now();
  const CommandResult result = run.wait();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
  EXPECT_EQ(result.exit_code, 5) << result.err;
  EXPECT_FALSE(result.timed_out);
}

TEST_F(FailureTest, AKilledLauncherTakesItsRanksWithIt) {
  const TrainingCall call{.set = {"train.steps=1000000"}, .ranks = 2};
  testing::Command run(command_line(call), command_options(call));
  wait_for_step("run", 5);
  ASSERT_EQ(kill(run.pid(), SIGKILL), 0);
  EXPECT_EQ(run.wait().signal, SIGKILL);
  // TearDown finds what is left.
}

INSTANTIATE_TEST_SUITE_P(Rank, LostRankTest, ::testing::Values(0, 1, 2));

}  // namespace
}  // namespace lockstep
