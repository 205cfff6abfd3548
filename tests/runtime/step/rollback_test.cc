#include "runtime/step/rollback.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "core/error.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::runtime {
namespace {

using ::testing::HasSubstr;

constexpr std::int64_t kSkips = 50;

// A run whose every computed step from `from` on breaks: the plans that follow one another.
Rollbacks break_always(std::int64_t to, std::int64_t from) {
  Rollbacks all;
  for (std::int64_t step = from;; ++step) {
    const Rollback next = plan_rollback(all, to, step);
    if (!refusal(all, next, kSkips).empty()) return all;
    all.push_back(next);
  }
}

// Steps that leapt: of a spike that is over just these; where the weights were spoilt, as many before.
TEST(Rollback, PlansForStepsThatLeapt) {
  EXPECT_EQ(plan_rollback({}, 40, 57, 1), (Rollback{40, 57, 57}));
  EXPECT_EQ(plan_rollback({}, 40, 58, 3), (Rollback{40, 56, 58}));
  EXPECT_EQ(plan_rollback({}, 40, 60, 3, true), (Rollback{40, 55, 60}));
  EXPECT_EQ(plan_rollback({}, 57, 60, 3, true), (Rollback{57, 58, 60}));
  EXPECT_EQ(plan_rollback({{40, 55, 60}}, 40, 63, 3, true), (Rollback{40, 46, 63}));
}

TEST(Rollback, OnlyTheBrokenStepIsLeftOut) {
  Rollbacks all;
  for (const std::int64_t step : {25, 27, 40, 28}) {
    const Rollback next = plan_rollback(all, 20, step);
    EXPECT_EQ(next, (Rollback{20, step, step}));
    all.push_back(next);
  }
  for (std::int64_t step = 1; step < 50; ++step)
    EXPECT_EQ(is_left_out(all, step), step == 25 || step == 27 || step == 28 || step == 40) << step;
}

TEST(Rollback, FromTheThirdInSuccessionOnTheRangeDoublesBackwards) {
  const Rollbacks all = break_always(10, 60);
  EXPECT_EQ(all, (Rollbacks{{10, 60, 60}, {10, 61, 61}, {10, 57, 62}, {10, 50, 63}, {10, 35, 64}}));
}

TEST(Rollback, NeverLeavesOutWhatTheCheckpointHolds) {
  const Rollbacks all = break_always(58, 60);
  EXPECT_EQ(all.at(2), (Rollback{58, 59, 62}));
  EXPECT_EQ(all.at(3), (Rollback{58, 59, 63}));
  EXPECT_EQ(all.size(), static_cast<std::size_t>(kMostRollbacksToOneCheckpoint));
}

TEST(Rollback, IsRefusedWhenItGoesTooFar) {
  Rollbacks all;
  for (std::int64_t i = 0; i < kMostRollbacksToOneCheckpoint; ++i) {
    const Rollback next{20, 30 + 2 * i, 30 + 2 * i};
    EXPECT_EQ(refusal(all, next, kSkips), "");
    all.push_back(next);
  }
  EXPECT_THAT(refusal(all, {20, 90, 90}, kSkips), HasSubstr("gone back to step 20 8 times"));
  EXPECT_EQ(refusal(all, {80, 90, 90}, kSkips), "");  // a newer checkpoint is a new start

  // With its neighbours on both sides.
  const Rollbacks around = {{20, 30, 31}, {20, 33, 34}};
  EXPECT_EQ(refusal(around, {20, 32, 32}, 6), "");
  EXPECT_THAT(refusal(around, {20, 32, 32}, 5), HasSubstr("steps 30 to 34 would be left out"));
}

TEST(Rollback, DescribesRows) {
  const Rollbacks all = {{0, 14, 14}, {0, 12, 12}, {0, 15, 17}, {0, 16, 20}};
  EXPECT_EQ(describe_left_out(all), "12, 14 to 20");
  EXPECT_EQ(left_out_json(all), "[[12,12],[14,20]]");
  EXPECT_EQ(describe_left_out({}), "");
  EXPECT_EQ(left_out_json({}), "[]");
}

// Checkpoints of steps after the one gone back to are given up, unless they were taken since.
TEST(Rollback, KnowsWhichCheckpointsAreGivenUp) {
  const Rollbacks all = {{10, 25, 25}, {30, 47, 47}};
  EXPECT_FALSE(is_given_up(all, 0, 10));
  EXPECT_TRUE(is_given_up(all, 0, 20));
  EXPECT_FALSE(is_given_up(all, 1, 20));
  EXPECT_FALSE(is_given_up(all, 1, 30));
  EXPECT_TRUE(is_given_up(all, 1, 40));
  EXPECT_FALSE(is_given_up(all, 2, 40));
  EXPECT_FALSE(is_given_up({}, 0, 40));
}

TEST(Rollback, FileGoesRound) {
  const testing::TemporaryDirectory directory;
  const std::string output = directory.path().string();
  EXPECT_EQ(read_rollbacks(output), Rollbacks{});
  const Rollbacks all = {{10, 25, 25}, {30, 41, 47}};
  write_rollbacks(output, all);
  EXPECT_EQ(read_rollbacks(output), all);
  EXPECT_EQ(testing::read_file(output + "/rollbacks.json"),
            "{\"version\":1,\"rollbacks\":[{\"to\":10,\"first\":25,\"last\":25},"
            "{\"to\":30,\"first\":41,\"last\":47}]}\n");
  remove_rollbacks(output);
  EXPECT_EQ(read_rollbacks(output), Rollbacks{});
  remove_rollbacks(output);
}

TEST(Rollback, ABadFileIsRefusedByName) {
  const testing::TemporaryDirectory directory;
  for (const char* text :
       {"", "{", "[]", "{\"version\":2,\"rollbacks\":[]}", "{\"version\":1}",
        "{\"version\":1,\"rollbacks\":[{\"to\":5}]}",
        "{\"version\":1,\"rollbacks\":[{\"to\":5,\"first\":5,\"last\":6}]}",
        "{\"version\":1,\"rollbacks\":[{\"to\":5,\"first\":8,\"last\":7}]}",
        "{\"version\":1,\"rollbacks\":[{\"to\":-1,\"first\":8,\"last\":9}]}",
        "{\"version\":1,\"rollbacks\":[{\"to\":5,\"first\":8,\"last\":1e300}]}",
        "{\"version\":1,\"rollbacks\":[{\"to\":\"a\",\"first\":8,\"last\":9}]}"}) {
    directory.write("rollbacks.json", text);
    try {
      read_rollbacks(directory.path().string());
      ADD_FAILURE() << "accepted " << text;
    } catch (const core::Error& error) {
      EXPECT_EQ(error.kind(), core::ErrorKind::kData);
      EXPECT_THAT(error.what(), HasSubstr("rollbacks.json"));
    }
  }
}

}  // namespace
}  // namespace lockstep::runtime
