#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "tests/support/training_world.h"

// The same configuration is the same training at any number of ranks, in every stage.
namespace lockstep::testing {
namespace {

constexpr double kTolerance = 1e-5;

struct Variant {
  const char* name;
  std::vector<int> ranks;
  std::vector<std::string> overrides;
};

std::vector<Variant> variants() {
  return {{"gpt_tied", {1, 2, 3, 4}, {}},
          {"gpt_untied", {1, 3}, {"model.tie_embeddings=false", "parallel.bucket_mib=0.001"}},
          {"llama_tied", {4}, {"model.family=llama", "model.tie_embeddings=true"}},
          {"llama_untied",
           {1, 2, 3, 4},
           {"model.family=llama", "model.kv_heads=1", "parallel.bucket_mib=0.001"}}};
}

void expect_same_curve(const TrainingResult& found, const TrainingResult& reference) {
  ASSERT_EQ(found.decisions.size(), reference.decisions.size());
  for (std::size_t i = 0; i < found.decisions.size(); ++i) {
    const runtime::StepDecision& a = found.decisions[i];
    const runtime::StepDecision& b = reference.decisions[i];
    ASSERT_TRUE(a.applied());
    ASSERT_NEAR(a.loss / b.loss, 1.0, kTolerance) << "step " << i + 1;
    ASSERT_NEAR(a.grad_norm / b.grad_norm, 1.0, kTolerance) << "step " << i + 1;
  }
}

class SameCurve : public ::testing::TestWithParam<Variant> {};

TEST_P(SameCurve, AtEveryRankCountStageAndSync) {
  TrainingWorld world(tiny_config());
  TrainingRun run;
  run.overrides = GetParam().overrides;
  run.overrides.insert(run.overrides.end(), {"train.steps=50", "parallel.verify_every=25",
                                             "optimizer.learning_rate=1e-3"});
  const TrainingResult reference = world.train(run);
  ASSERT_EQ(reference.decisions.size(), 50U) << reference.message;
  EXPECT_LT(reference.decisions.back().loss, reference.decisions.front().loss - 0.2);
  for (const int ranks : GetParam().ranks) {
    for (const char* sync : {"every_round", "boundary"}) {
      StateHashes of_this_sync;
      for (const int stage : {0, 1, 2}) {
        SCOPED_TRACE(fmt::format("{} ranks, stage {}, {}", ranks, stage, sync));
        TrainingRun other = run;
        other.ranks = ranks;
        other.overrides.push_back(fmt::format("parallel.zero_stage={}", stage));
        other.overrides.push_back(fmt::format("parallel.grad_sync={}", sync));
        const TrainingResult found = world.train(other);
        expect_same_curve(found, reference);
        if (stage == 0) of_this_sync = found.state;
        EXPECT_EQ(found.state, of_this_sync) << "stages differ in bits";
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, SameCurve, ::testing::ValuesIn(variants()),
                         [](const auto& each) { return std::string(each.param.name); });

// The order of the last sums is all that may differ: 64 ranks against one.
TEST(ManyRanks, SixtyFour) {
  TrainingWorld world(tiny_config());
  TrainingRun run;
  run.overrides = {"batch.global=64", "train.steps=4", "parallel.verify_every=1", "model.layers=1"};
  const TrainingResult reference = world.train(run);
  run.ranks = 64;
  for (const int stage : {0, 2}) {
    TrainingRun sharded = run;
    sharded.overrides.push_back(fmt::format("parallel.zero_stage={}", stage));
    expect_same_curve(world.train(sharded), reference);
  }
  run.overrides.push_back("run.reproducible=ranks");
  const TrainingResult exact = world.train(run);
  run.ranks = 1;
  const TrainingResult alone = world.train(run);
  EXPECT_EQ(exact.state, alone.state);
  EXPECT_EQ(exact.ledger, alone.ledger);
}

// Each sequence by itself gives its own mean, of which loss.normalise: sequences takes the mean:
// with weights that never move, sequences without targets, and micro-batches of any size on any
// rank.
TEST(LossBySequence, IsTheMeanOfMeansUnderAccumulationAndIgnoredTargets) {
  TrainingWorld world(tiny_config());
  std::string mask(4096, '\0');  // of 8 tokens to a sequence
  for (std::size_t i = 0; i < mask.size(); ++i)
    mask[i] = (i / 8) % 5 != 2 && i * 7919 % 11 <= (i / 8) % 7 ? '\1' : '\0';
  world.directory().write("tokens.mask", mask);
  TrainingRun run;
  run.overrides = {"data.order=sequential",     "train.steps=12",         "batch.global=1",
                   "optimizer.learning_rate=0", "schedule.name=constant", "health.spike_factor=0"};
  const TrainingResult alone = world.train(run);
  ASSERT_EQ(alone.decisions.size(), 12U) << alone.message;
  double sum = 0.0;
  int sequences = 0;
  for (const runtime::StepDecision& each : alone.decisions) {
    sum += each.counted > 0 ? each.loss : 0.0;
    sequences += each.counted > 0 ? 1 : 0;
  }
  ASSERT_GT(sequences, 5);
  ASSERT_LT(sequences, 12);
  run.overrides.insert(run.overrides.end(),
                       {"train.steps=1", "batch.global=12", "loss.normalise=sequences"});
  double norm = 0.0;
  for (const auto& [micro, ranks, stage] :
       {std::tuple{1, 1, 0}, {1, 3, 2}, {4, 3, 0}, {12, 1, 2}}) {
    TrainingRun whole = run;
    whole.ranks = ranks;
    whole.overrides.push_back(fmt::format("batch.micro={}", micro));
    whole.overrides.push_back(fmt::format("parallel.zero_stage={}", stage));
    const TrainingResult found = world.train(whole);
    ASSERT_EQ(found.decisions.size(), 1U) << found.message;
    EXPECT_NEAR(found.decisions.front().loss, sum / sequences, 1e-6);
    if (norm == 0.0) norm = found.decisions.front().grad_norm;
    EXPECT_NEAR(found.decisions.front().grad_norm / norm, 1.0, 1e-5);
  }
  run.overrides.emplace_back("loss.normalise=tokens");
  EXPECT_GT(std::abs(world.train(run).decisions.at(0).loss - sum / sequences), 1e-4);
}

}  // namespace
}  // namespace lockstep::testing
