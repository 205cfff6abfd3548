// What a resume finds changed: the optimizer, the batch, the end of the run, where weights came from.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <cmath>
#include <filesystem>

#include "tests/support/training_test.h"

namespace lockstep {
namespace {

using testing::CommandResult;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::TrainingCall;

const std::vector<std::string> kSchedule = {"schedule.name=constant", "schedule.warmup_steps=0"};

class ResumeEdgesTest : public testing::TrainingTest {
 protected:
  using Set = std::vector<std::string>;

  CommandResult resume(const std::string& output, const Set& set, int ranks = 1) const {
    return train({.set = with(kSchedule, set),
                  .ranks = ranks,
                  .output = output,
                  .more = {"--resume", "auto"},
                  .timeout_seconds = 200});
  }

  static Set with(Set set, const Set& more) {
    set.insert(set.end(), more.begin(), more.end());
    return set;
  }

  void make(const std::string& output, const Set& set) const {
    must_train({.set = with(kSchedule, set), .output = output, .timeout_seconds = 200});
  }

  double loss_of(const std::string& output, int step) const {
    for (const auto& line : metrics(output, "step"))
      if (line["step"] == step) return line["loss"].is_null() ? NAN : line["loss"].get<double>();
    return NAN;
  }
};

// Every step sees the same batch, so that a run with another optimizer can be begun twice: from the
// checkpoint, and from its weights alone.
const std::vector<std::string> kSameBatches = {"batch.global=4",         "batch.micro=2",
                                               "data.train=same.bin",    "data.order=sequential",
                                               "data.validation=null",   "schedule.name=constant",
                                               "schedule.warmup_steps=0"};

TEST_F(ResumeEdgesTest, W2AnotherOptimizerBeginsItsStateAnew) {
  const std::vector<std::uint16_t> batch = testing::structured_tokens(4 * kContext, kVocabulary);
  std::vector<std::uint16_t> tokens = batch;
  tokens.push_back(batch.front());
  write_tokens("same.bin", tokens);
  const Set adamw = {"optimizer.name=adamw", "optimizer.learning_rate=1e-2"};
  const Set rmsprop = {"optimizer.name=rmsprop", "optimizer.learning_rate=1e-3"};
  const Set sgd = {"optimizer.name=sgd", "optimizer.momentum=0.9", "optimizer.learning_rate=0.05"};
  const Set lion = {"optimizer.name=lion", "optimizer.learning_rate=1e-3"};
  for (const auto& [before, after, told] :
       {std::tuple{adamw, rmsprop, "RMSProp's mean square begins at 0; Adam's first moment and"},
        {rmsprop, adamw, "Adam's first moment and Adam's second moment begin at 0; RMSProp's"},
        {sgd, lion, "Lion's momentum begins at 0; SGD's momentum is dropped"},
        {lion, sgd, "SGD's momentum begins at 0; Lion's momentum is dropped"}}) {
    const std::string name = before[0] + after[0];
    make("a" + name, with(kSameBatches, with(before, {"train.steps=6"})));
    const std::string weights = checkpoint_directory("a" + name, 6) + "/model.safetensors";
    make("fresh" + name,
         with(kSameBatches, with(after, {"train.steps=3", "model.init_from=" + weights})));
    const CommandResult result =
        resume("a" + name, with(kSameBatches, with(after, {"train.steps=9"})));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_THAT(result.err, HasSubstr(told));
    for (const int step : {1, 2, 3}) {
      EXPECT_EQ(loss_of("a" + name, 6 + step), loss_of("fresh" + name, step)) << name << step;
    }
    // The count of its bias corrections goes with it through the next checkpoint.
    make("fresh2" + name,
         with(kSameBatches, with(after, {"train.steps=5", "model.init_from=" + weights})));
    EXPECT_EQ(resume("a" + name, with(kSameBatches, with(after, {"train.steps=11"}))).exit_code, 0);
    EXPECT_EQ(loss_of("a" + name, 11), loss_of("fresh2" + name, 5)) << name;
  }
}

// Adam's moments mean the same to AdamW.
TEST_F(ResumeEdgesTest, W2AdamTakesOverWhatAdamWGathered) {
  const Set same = {"optimizer.weight_decay=0", "train.steps=20"};
  make("whole", same);
  make("a", with(same, {"train.steps=10"}));
  const CommandResult result = resume("a", with(same, {"optimizer.name=adam"}));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, Not(HasSubstr("optimizer state")));
  EXPECT_EQ(model_bytes("a", 20), model_bytes("whole", 20));
}

// At learning rate 0 the loss of a batch is the mean of those of its parts, whatever step they are
// in: so the tokens that a changed batch deals can be told from its losses.
TEST_F(ResumeEdgesTest, W3AChangedBatchGoesOnWhereTheDataWere) {
  for (const std::string order : {"sequential", "shuffled"}) {
    const Set same = {"optimizer.learning_rate=0", "data.order=" + order, "data.validation=null",
                      "run.output=" + order};
    const std::string whole = "whole" + order;
    make(whole, with(same, {"batch.global=4", "train.steps=60", "run.output=" + whole}));
    const auto mean = [&](int first, int count) {  // of steps of 4 sequences
      double sum = 0.0;
      for (int i = 0; i < count; ++i)
        sum += loss_of(whole, first + i);
      return sum / count;
    };
    make(order, with(same, {"batch.global=8", "train.steps=5", "batch.micro=2"}));
    EXPECT_NEAR(loss_of(order, 5), mean(9, 2), 1e-6);
    ASSERT_EQ(resume(order, with(same, {"batch.global=16", "train.steps=7"}), 2).exit_code, 0);
    EXPECT_NEAR(loss_of(order, 6), mean(11, 4), 1e-6);
    EXPECT_NEAR(loss_of(order, 7), mean(15, 4), 1e-6);
    ASSERT_EQ(
        resume(order, with(same, {"batch.global=4", "batch.micro=4", "train.steps=9"})).exit_code,
        0);
    EXPECT_NEAR(loss_of(order, 8), mean(19, 1), 1e-6);
    EXPECT_NEAR(loss_of(order, 9), mean(20, 1), 1e-6);
    EXPECT_THAT(text(order + "/ledger.jsonl"), HasSubstr(R"("step":9,"data_position":76,)"));
  }
}

TEST_F(ResumeEdgesTest, D16NothingLeftToDoIsSaid) {
  make("a", {"train.steps=4"});
  const CommandResult result = resume("a", {"train.steps=4"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.err, HasSubstr("nothing is left to do: train.steps is 4"));
}

TEST_F(ResumeEdgesTest, D17AnotherInitFromIsRefused) {
  make("a", {"train.steps=4"});
  const CommandResult result = resume(
      "a",
      {"train.steps=6", "model.init_from=" + checkpoint_directory("a", 4) + "/model.safetensors"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("model.init_from was"));
}

TEST_F(ResumeEdgesTest, D18AnEmptyLedgerIsNoNoDifference) {
  make("a", {"train.steps=2"});
  directory_.write("empty/ledger.jsonl", "");
  for (const auto& [one, two] : {std::pair{"a", "empty"}, {"empty", "a"}, {"empty", "empty"}}) {
    const CommandResult result = lockstep({"audit", path(one).string(), path(two).string()});
    EXPECT_EQ(result.exit_code, 3);
    EXPECT_THAT(result.err, HasSubstr("expected at least one record to compare"));
  }
}

// W18: hashes that only one of two runs took are no difference.
TEST_F(ResumeEdgesTest, U4HashesOfOneRunAloneAreNoDifference) {
  make("a", {"train.steps=8"});
  make("b", {"train.steps=8", "checkpoint.every_steps=2", "parallel.verify_every=3"});
  const CommandResult result = lockstep({"audit", path("a").string(), path("b").string()});
  EXPECT_EQ(result.exit_code, 0) << result.out;
  EXPECT_THAT(result.out, HasSubstr("no difference in the 8 steps"));
  EXPECT_THAT(result.out, HasSubstr("compared at 1 of them"));
}

// An order that an earlier version chose is named, not taken for changed data.
TEST_F(ResumeEdgesTest, FilesInAnotherOrderAreNamedInTheirOwn) {
  write_tokens("first.bin", testing::structured_tokens(3000, kVocabulary));
  write_tokens("a_second.bin", testing::structured_tokens(2000, kVocabulary));
  make("a", {"train.steps=4", "data.train=[first.bin, a_second.bin]", "data.validation=null"});
  const CommandResult result = resume(
      "a", {"train.steps=6", "data.train=[a_second.bin, first.bin]", "data.validation=null"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("list them in data.train as first.bin, a_second.bin"));
}

}  // namespace
}  // namespace lockstep
