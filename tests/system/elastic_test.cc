// One run whose number of ranks changes from attempt to attempt.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <signal.h>

#include <cmath>

#include "tests/support/training_test.h"

namespace lockstep {
namespace {

using testing::Command;
using testing::CommandResult;
using testing::TrainingCall;

class ElasticTest : public testing::TrainingTest {
 protected:
  static constexpr int kStepsOfAttempt = 8;

  // Trains with each of these numbers of ranks in turn; each attempt but the last is asked to stop
  // while rank 0 sleeps in the step after its kStepsOfAttempt.
  void train_in_turn(const std::vector<int>& ranks, const std::vector<std::string>& set) {
    const int attempts = static_cast<int>(ranks.size());
    steps_ = kStepsOfAttempt * attempts + attempts - 1;
    std::string faults;
    std::vector<int> stops;
    for (int attempt = 1; attempt < attempts; ++attempt) {
      stops.push_back((kStepsOfAttempt + 1) * attempt);
      faults += fmt::format("{}{{kind: slow, step: {}}}", faults.empty() ? "" : ", ", stops.back());
    }
    TrainingCall call{.set = set, .timeout_seconds = 120};
    call.set.push_back(fmt::format("train.steps={}", steps_));
    call.set.push_back("train.validate_every=10");
    TrainingCall whole = call;
    whole.output = "whole";
    whole.ranks = ranks.front();
    must_train(whole);
    call.set.push_back("fault=[" + faults + "]");
    call.more = {"--resume", "auto"};
    for (int attempt = 0; attempt < attempts; ++attempt) {
      call.ranks = ranks[static_cast<std::size_t>(attempt)];
      SCOPED_TRACE(fmt::format("attempt {} with {} ranks", attempt + 1, call.ranks));
      const bool last = attempt + 1 == attempts;
      const int stop = last ? 0 : stops[static_cast<std::size_t>(attempt)];
      Command run(command_line(call), command_options(call));
      if (!last) {
        wait_for_step("run", stop - 1);
        kill(run.pid(), SIGTERM);
      }
      const CommandResult result = run.wait();
      ASSERT_EQ(result.exit_code, last ? 0 : 7) << result.err;
      ASSERT_EQ(step_lines("run").size(), static_cast<std::size_t>(last ? steps_ : stop));
    }
    EXPECT_EQ(metrics("run", "resume").size(), ranks.size() - 1);
  }

  int steps_ = 0;
};

TEST_F(ElasticTest, TheCurveIsThatOfTheUninterruptedRun) {
  train_in_turn({4, 3, 1, 2}, {});
  const auto found = metrics("run", "step");
  const auto expected = metrics("whole", "step");
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_NEAR(found[i]["loss"].get<double>(), expected[i]["loss"].get<double>(), 1e-5)
        << "step " << i + 1;
  }
  const auto validation = metrics("whole", "validation");
  ASSERT_EQ(metrics("run", "validation").size(), validation.size());
  EXPECT_GE(validation.size(), 3U);
  EXPECT_NEAR(metrics("run", "validation").back()["loss"].get<double>(),
              validation.back()["loss"].get<double>(), 1e-5);
  // Something was learned, so that the comparison says something.
  EXPECT_LT(expected.back()["loss"].get<double>(), expected.front()["loss"].get<double>() - 0.5);
}

TEST_F(ElasticTest, ReproducibleRanksIsTheSameBits) {
  train_in_turn({4, 2, 1, 3, 8},
                {"run.reproducible=ranks", "precision.compute=bf16", "model.dropout=0.1"});
  expect_same_run("run", "whole", steps_);
}

}  // namespace
}  // namespace lockstep
