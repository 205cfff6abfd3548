// The course of a training: independent of ranks and stages up to rounding, and of the precision up
// to what 16 bits hold.
#include <fmt/format.h>

#include <cmath>

#include "tests/support/training_test.h"

namespace lockstep {
namespace {

using testing::Launch;

class CurvesTest : public testing::TrainingTest {
 protected:
  std::vector<double> column(const std::string& output, const char* field) const {
    std::vector<double> values;
    for (const auto& line : metrics(output, "step")) {
      EXPECT_TRUE(line[field].is_number()) << line;
      values.push_back(line[field].is_number() ? line[field].get<double>() : NAN);
    }
    return values;
  }

  void expect_close(const std::string& output, const std::string& expected, const char* field,
                    std::size_t steps, double tolerance) const {
    const std::vector<double> a = column(output, field);
    const std::vector<double> b = column(expected, field);
    ASSERT_EQ(a.size(), steps);
    ASSERT_EQ(b.size(), steps);
    for (std::size_t i = 0; i < steps; ++i) {
      EXPECT_NEAR(a[i], b[i], tolerance * std::abs(b[i])) << field << " of step " << i + 1;
    }
  }

  void expect_one_curve(const std::string& family) const {
    const std::vector<std::string> set = {"model.family=" + family, "train.steps=50",
                                          "batch.global=12", "clip.threshold=0.5",
                                          "optimizer.learning_rate=3e-3"};
    must_train({.set = set, .output = "one"});
    for (int ranks = 1; ranks <= 4; ++ranks) {
      for (int stage = 0; stage <= 2; ++stage) {
        const std::string name = fmt::format("{}.ranks{}.stage{}", family, ranks, stage);
        SCOPED_TRACE(name);
        std::vector<std::string> with_stage = set;
        with_stage.push_back(fmt::format("parallel.zero_stage={}", stage));
        must_train({.set = with_stage, .ranks = ranks, .launch = Launch::kMpirun, .output = name});
        expect_close(name, "one", "loss", 50, 1e-5);
        expect_close(name, "one", "grad_norm", 50, 1e-5);
      }
    }
  }

  static constexpr int kLongSteps = 200;

  void train_long(const std::string& output, const std::vector<std::string>& precision) const {
    std::vector<std::string> set = {fmt::format("train.steps={}", kLongSteps),
                                    "optimizer.learning_rate=3e-3", "schedule.warmup_steps=20"};
    set.insert(set.end(), precision.begin(), precision.end());
    must_train({.set = set, .ranks = 2, .output = output});
  }
};

TEST_F(CurvesTest, RanksAndStagesGiveOneGptCurve) {
  expect_one_curve("gpt");
}
TEST_F(CurvesTest, RanksAndStagesGiveOneLlamaCurve) {
  expect_one_curve("llama");
}

TEST_F(CurvesTest, SixteenBitsFollowFp32) {
  train_long("fp32", {});
  const std::vector<double> loss = column("fp32", "loss");
  ASSERT_EQ(loss.size(), static_cast<std::size_t>(kLongSteps));
  EXPECT_LT(loss.back(), 0.4 * loss.front()) << "nothing was learned, so nothing is compared";
  train_long("bf16", {"precision.compute=bf16"});
  expect_close("bf16", "fp32", "loss", kLongSteps, 0.02);
  train_long("fp16", {"precision.compute=fp16", "precision.loss_scale.mode=static",
                      "precision.loss_scale.initial=1024"});
  expect_close("fp16", "fp32", "loss", kLongSteps, 0.02);
}

}  // namespace
}  // namespace lockstep
