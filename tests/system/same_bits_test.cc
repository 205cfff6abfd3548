// The same training gives the same bits: twice, and under `run.reproducible: ranks` at every number
// of ranks and threads and every stage.
#include <fmt/format.h>

#include "tests/support/training_test.h"

namespace lockstep {
namespace {

using testing::TrainingCall;

struct Layout {
  int ranks;
  int stage;
  int threads;
};

class SameBitsTest : public testing::TrainingTest {
 protected:
  void expect_same(const std::string& first, const std::string& second, int steps) const {
    const std::vector<std::string> lines = step_lines(first);
    ASSERT_EQ(lines.size(), static_cast<std::size_t>(steps));
    EXPECT_EQ(step_lines(second), lines);
    const std::string model = model_bytes(first, steps);
    ASSERT_FALSE(model.empty());
    EXPECT_TRUE(model_bytes(second, steps) == model) << "model.safetensors differs";
    EXPECT_EQ(text(second + "/ledger.jsonl"), text(first + "/ledger.jsonl"));
  }

  void expect_same_in(const std::string& family, const std::string& compute) const {
    const std::vector<std::string> set = {"run.reproducible=ranks", "model.family=" + family,
                                          "model.dropout=0.1", "precision.compute=" + compute};
    must_train({.set = set, .output = "first"});
    // Each stage, thread count and number of ranks at least once; the soak loop takes them all.
    const Layout layouts[] = {{1, 0, 2}, {2, 1, 1}, {3, 2, 2}, {4, 0, 1}, {6, 1, 2}, {8, 2, 1}};
    for (const Layout& layout : layouts) {
      const std::string name =
          fmt::format("ranks{}stage{}threads{}", layout.ranks, layout.stage, layout.threads);
      SCOPED_TRACE(family + " " + compute + " " + name);
      TrainingCall call{
          .set = set, .ranks = layout.ranks, .threads = layout.threads, .output = name};
      call.set.push_back(fmt::format("parallel.zero_stage={}", layout.stage));
      must_train(call);
      expect_same("first", name, 20);
    }
  }
};

TEST_F(SameBitsTest, TheSameConfigTwice) {
  for (const int ranks : {1, 2}) {
    for (const int threads : {1, 2}) {
      SCOPED_TRACE(fmt::format("{} ranks, {} threads", ranks, threads));
      const std::string name = fmt::format("r{}t{}", ranks, threads);
      TrainingCall call{.set = {"model.dropout=0.1", "train.validate_every=5"},
                        .ranks = ranks,
                        .threads = threads,
                        .output = name + "a"};
      must_train(call);
      call.output = name + "b";
      must_train(call);
      expect_same(name + "a", name + "b", 20);
      const auto validation = metrics(name + "a", "validation");
      EXPECT_EQ(validation.size(), 4U);
      EXPECT_EQ(metrics(name + "b", "validation"), validation);
    }
  }
}

TEST_F(SameBitsTest, AnotherSeedGivesOtherBits) {
  must_train({.output = "a"});
  must_train({.set = {"run.seed=8"}, .output = "b"});
  EXPECT_NE(step_lines("a"), step_lines("b"));
  EXPECT_NE(model_bytes("a", 20), model_bytes("b", 20));
}

TEST_F(SameBitsTest, EveryNumberOfRanksGptFp32) {
  expect_same_in("gpt", "fp32");
}
TEST_F(SameBitsTest, EveryNumberOfRanksGptBf16) {
  expect_same_in("gpt", "bf16");
}
TEST_F(SameBitsTest, EveryNumberOfRanksGptFp16) {
  expect_same_in("gpt", "fp16");
}
TEST_F(SameBitsTest, EveryNumberOfRanksLlamaFp32) {
  expect_same_in("llama", "fp32");
}
TEST_F(SameBitsTest, EveryNumberOfRanksLlamaBf16) {
  expect_same_in("llama", "bf16");
}
TEST_F(SameBitsTest, EveryNumberOfRanksLlamaFp16) {
  expect_same_in("llama", "fp16");
}

}  // namespace
}  // namespace lockstep
