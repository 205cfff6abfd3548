// Data and validation at their edges: tails, wide ids, orders, files cut short, tokens that are no
// targets, and data that change for good.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <cmath>
#include <filesystem>

#include "tests/support/training_test.h"

namespace lockstep {
namespace {

using ::testing::AllOf;
using testing::CommandResult;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::TrainingCall;

class DataEdgesTest : public testing::TrainingTest {
 protected:
  using Set = std::vector<std::string>;

  static Set with(Set set, const Set& more) {
    set.insert(set.end(), more.begin(), more.end());
    return set;
  }

  TrainingCall call(const std::string& output, Set set, int ranks = 1) const {
    set.insert(set.begin(),
               "schedule.warmup_steps=0");  // runs here may be shorter than the warm-up
    return {.set = std::move(set), .ranks = ranks, .output = output, .timeout_seconds = 200};
  }

  std::vector<double> losses(const std::string& output, const std::string& event) const {
    std::vector<double> found;
    for (const auto& line : metrics(output, event))
      found.push_back(line["loss"].is_null() ? NAN : line["loss"].get<double>());
    return found;
  }

  int applied(const std::string& output) const {
    int count = 0;
    for (const auto& line : metrics(output, "step"))
      count += line["applied"] == true ? 1 : 0;
    return count;
  }
};

// Five sequences, each counted once: neither dropped as a tail nor dealt twice.
TEST_F(DataEdgesTest, W4ValidationCoversEverySequenceOnce) {
  const auto tokens = testing::structured_tokens(5 * kContext + 1, kVocabulary);
  write_tokens("five.bin", tokens);
  const Set same = {"train.steps=1", "optimizer.learning_rate=0", "data.validation=five.bin",
                    "train.validate_every=1", "batch.global=24"};
  double sum = 0.0;  // the mean of each sequence's own loss
  for (int i = 0; i < 5; ++i) {
    const auto begin = tokens.begin() + i * kContext;
    write_tokens("one.bin", {begin, begin + kContext + 1});
    must_train(call(fmt::format("one{}", i), with(same, {"data.validation=one.bin"})));
    sum += losses(fmt::format("one{}", i), "validation").at(0);
  }
  std::vector<double> exact;
  for (const auto& [micro, ranks] : {std::pair{1, 1}, {2, 1}, {3, 2}, {4, 3}, {8, 1}, {12, 2}}) {
    const std::string name = fmt::format("m{}r{}", micro, ranks);
    const Set at = with(same, {fmt::format("batch.micro={}", micro)});
    must_train(call(name, at, ranks));
    EXPECT_NEAR(losses(name, "validation").at(0), sum / 5, 1e-6) << name;
    must_train(call("x" + name, with(at, {"run.reproducible=ranks"}), ranks));
    exact.push_back(losses("x" + name, "validation").at(0));
    EXPECT_NEAR(exact.back(), sum / 5, 1e-6) << name;
    EXPECT_EQ(exact.back(), exact.front()) << name;  // bit for bit
  }
}

TEST_F(DataEdgesTest, W5WideIdsReadAsNarrowOnesAreRefused) {
  std::string wide;
  for (const std::uint16_t id : testing::structured_tokens(6000, kVocabulary))
    wide += std::string{static_cast<char>(id), 0, 0, 0};
  directory_.write("wide.bin", wide);
  for (const std::string key : {"data.train", "data.validation"}) {
    const CommandResult result = train(call(key, {key + "=wide.bin"}));
    EXPECT_EQ(result.exit_code, 3);
    EXPECT_THAT(result.err, AllOf(HasSubstr("wide.bin"), HasSubstr("data.token_type: uint32")));
  }
  EXPECT_EQ(lockstep({"data", "info", path("wide.bin").string()}).exit_code, 3);
  must_train(call("right", {"data.train=wide.bin", "data.token_type=uint32", "train.steps=1",
                            "data.validation=null"}));
  // Ids that a 16-bit file cannot hold.
  const CommandResult result =
      train(call("large", {"model.vocab=70000", "train.steps=1", "batch.global=1"}));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("tokens.bin holds 16-bit ids, and model.vocab 70000"));
}

TEST_F(DataEdgesTest, W6AListKeepsItsOrderAndAPatternSortsNaturally) {
  const auto tokens = testing::structured_tokens(3 * 97, kVocabulary);
  for (const auto& [name, part] : {std::pair{"s-10.bin", 0}, {"s-2.bin", 1}, {"a.bin", 2}}) {
    const auto begin = tokens.begin() + part * 97;
    write_tokens(name, {begin, begin + 97});  // 6 sequences: a step
  }
  const Set same = {"batch.global=6", "batch.micro=6",         "optimizer.learning_rate=0",
                    "train.steps=3",  "data.order=sequential", "data.validation=null"};
  const auto run = [&](const std::string& name, const std::string& files) {
    const CommandResult result = train(call(name, with(same, {"data.train=" + files})));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return std::pair{losses(name, "step"), result.err};
  };
  const auto [listed, log] = run("list", "[s-10.bin, s-2.bin, a.bin]");
  EXPECT_THAT(log, HasSubstr("data.train: 3 files, 18 sequences: s-10.bin, s-2.bin, a.bin (in the "
                             "order of the list"));
  using Losses = std::vector<double>;
  EXPECT_EQ(run("turned", "[a.bin, s-2.bin, s-10.bin]").first,
            (Losses{listed.at(2), listed.at(1), listed.at(0)}));
  EXPECT_EQ(run("pattern", "'*-*.bin'").first, (Losses{listed.at(1), listed.at(0), listed.at(1)}));
}

TEST_F(DataEdgesTest, D3AFileThatShrinksUnderARunIsNamedByAllRanks) {
  for (const std::string key : {"data.train", "data.validation"}) {
    for (const int ranks : {1, 2}) {
      const std::string name = fmt::format("{}{}.bin", key.substr(5), ranks);
      write_tokens(name, testing::structured_tokens(60000, kVocabulary));
      const std::string output = fmt::format("run{}{}", key, ranks);
      const TrainingCall long_run =
          call(output, {key + "=" + name, "train.steps=100000", "train.validate_every=5"}, ranks);
      testing::Command run(command_line(long_run), command_options(long_run));
      wait_for_step(output, 2);
      std::filesystem::resize_file(path(name), 100);
      const CommandResult result = run.wait();
      EXPECT_EQ(result.exit_code, 3) << result.err;
      EXPECT_THAT(result.err, AllOf(HasSubstr(name), HasSubstr("cut short")));
      for (int r = 0; r < ranks; ++r) {
        const auto record =
            nlohmann::json::parse(text(fmt::format("{}/exit/rank-{:04}.json", output, r)));
        EXPECT_EQ(record["exit_code"], 3) << record;
        EXPECT_THAT(record["message"].get<std::string>(), HasSubstr(name));
      }
    }
  }
}

// Micro-batches and ranks with unequal numbers of targets are one mean over all of them.
TEST_F(DataEdgesTest, TokensThatAreNoTargetsCountNowhere) {
  const auto tokens = testing::structured_tokens(20 * 12 * kContext + 1, kVocabulary);
  std::string mask;
  for (std::size_t i = 0; i < tokens.size(); ++i)
    mask.push_back(i * i % 7 < 3 && i / 200 % 3 != 1 ? 1 : 0);  // and whole sequences without any
  write_tokens("masked.bin", tokens);
  directory_.write("masked.mask", mask);
  const Set same = {"data.train=masked.bin", "data.order=sequential", "batch.global=12",
                    "train.steps=20",        "data.validation=null",  "run.reproducible=ranks"};
  must_train(call("one", with(same, {"batch.micro=12"})));
  const auto one = metrics("one", "step");
  for (std::size_t step = 0; step < one.size(); ++step) {
    std::int64_t targets = 0;
    for (std::size_t i = 0; i < 12 * kContext; ++i)
      targets += mask[step * 12 * kContext + i + 1];
    EXPECT_EQ(one[step]["tokens"], targets);
  }
  for (const int ranks : {1, 2, 4}) {
    const std::string name = fmt::format("ranks{}", ranks);
    must_train(call(name, with(same, {"batch.micro=1"}), ranks));
    EXPECT_EQ(step_lines(name), step_lines("ranks1"));
    const auto lines = metrics(name, "step");
    for (std::size_t step = 0; step < one.size(); ++step) {
      EXPECT_EQ(lines[step]["tokens"], one[step]["tokens"]);
      EXPECT_NEAR(lines[step]["loss"].get<double>(), one[step]["loss"].get<double>(), 1e-4);
    }
  }
  EXPECT_THAT(lockstep({"data", "info", path("masked.bin").string()}).out, HasSubstr("targets"));
}

// Two domains in sequence: the second is a level and no spike, whatever is to follow a spike.
TEST_F(DataEdgesTest, W7DataThatChangeForGoodTrainToTheEnd) {
  std::vector<std::uint16_t> tokens;
  const auto other = testing::structured_tokens(100 * 8 * kContext, kVocabulary / 2);
  for (std::size_t i = 0; i < 40 * 8 * kContext; ++i)
    tokens.push_back(static_cast<std::uint16_t>(kVocabulary / 2 + i % 24));
  tokens.insert(tokens.end(), other.begin(), other.end());
  write_tokens("domains.bin", tokens);
  for (const std::string policy : {"stop", "skip", "rollback"}) {
    const CommandResult result =
        train(call(policy, {"data.train=domains.bin", "data.order=sequential", "batch.global=8",
                            "batch.micro=4", "train.steps=100", "checkpoint.every_steps=10",
                            "schedule.name=constant", "schedule.warmup_steps=0",
                            "optimizer.learning_rate=5e-3", "data.validation=null",
                            "health.on_divergence=" + policy}));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_THAT(result.err, HasSubstr("taken for a new level of the data"));
    EXPECT_THAT(result.err, Not(HasSubstr("scale")));
    EXPECT_EQ(metrics(policy, "step").size(), 100U);
    EXPECT_GE(applied(policy), 94);
    const auto all = losses(policy, "step");
    EXPECT_GT(all.at(40), all.at(38) + 1.0);  // there was something to take for a spike
    EXPECT_LT(all.at(99), all.at(40) - 1.0);  // and the run has learnt it
  }
}

// Weights spoilt by a rate that is far too high look like a level, too: but nothing fits them any
// more.
TEST_F(DataEdgesTest, W7SpoiltWeightsAreNoLevel) {
  const Set same = {"train.steps=30", "data.validation=null", "schedule.name=constant",
                    "schedule.warmup_steps=0", "checkpoint.every_steps=30"};
  must_train(call("run", same));
  const Set spoilt = with(same, {"train.steps=60", "optimizer.learning_rate=3", "clip.mode=none"});
  for (const std::string policy : {"skip", "stop"}) {
    std::filesystem::copy(path("run"), path(policy), std::filesystem::copy_options::recursive);
    TrainingCall on = call(policy, with(spoilt, {"health.on_divergence=" + policy}));
    on.more = {"--resume", "auto"};
    const CommandResult result = train(on);
    EXPECT_EQ(result.exit_code, 4) << result.err;
    EXPECT_THAT(result.err, HasSubstr("the weights were spoilt before"));
    EXPECT_THAT(result.err, HasSubstr("health.spike_factor"));
  }
}

}  // namespace
}  // namespace lockstep
