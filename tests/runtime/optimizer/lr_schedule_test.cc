#include "runtime/optimizer/lr_schedule.h"

#include <gtest/gtest.h>

#include <cmath>

namespace lockstep::runtime {
namespace {

ScheduleConfig schedule_of(ScheduleKind name) {
  ScheduleConfig schedule;
  schedule.name = name;
  schedule.warmup_steps = 4;
  schedule.total_steps = 12;
  return schedule;
}

TEST(LearningRate, WarmUpIsTheSameForEverySchedule) {
  for (const ScheduleKind name :
       {ScheduleKind::kCosine, ScheduleKind::kLinear, ScheduleKind::kConstant, ScheduleKind::kStep,
        ScheduleKind::kInverseSqrt, ScheduleKind::kWsd}) {
    ScheduleConfig schedule = schedule_of(name);
    schedule.step_size = 3;
    schedule.gamma = 0.5;
    schedule.decay_steps = 2;
    EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 8.0, 1), 2.0);
    EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 8.0, 3), 6.0);
    EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 8.0, 4), 8.0);
  }
}

TEST(LearningRate, Cosine) {
  ScheduleConfig schedule = schedule_of(ScheduleKind::kCosine);
  schedule.min_learning_rate = 2.0;
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 10.0, 5), 2.0 + 4.0 * (1.0 + std::cos(M_PI / 8)));
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 10.0, 6), 6.0 + 2.0 * std::sqrt(2.0));
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 10.0, 8), 6.0);
  EXPECT_GT(learning_rate_at(schedule, 10.0, 11), 2.0);
  EXPECT_EQ(learning_rate_at(schedule, 10.0, 12), 2.0);
  EXPECT_EQ(learning_rate_at(schedule, 10.0, 13), 2.0);
  EXPECT_EQ(learning_rate_at(schedule, 10.0, 1000000), 2.0);
}

TEST(LearningRate, Linear) {
  ScheduleConfig schedule = schedule_of(ScheduleKind::kLinear);
  schedule.min_learning_rate = 1.0;
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 9.0, 5), 8.0);
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 9.0, 11), 2.0);
  EXPECT_EQ(learning_rate_at(schedule, 9.0, 12), 1.0);
  EXPECT_EQ(learning_rate_at(schedule, 9.0, 400), 1.0);
}

TEST(LearningRate, Constant) {
  ScheduleConfig schedule = schedule_of(ScheduleKind::kConstant);
  schedule.total_steps = 3;  // irrelevant, even below the warm-up
  EXPECT_EQ(learning_rate_at(schedule, 8.0, 5), 8.0);
  EXPECT_EQ(learning_rate_at(schedule, 8.0, 5000), 8.0);
}

TEST(LearningRate, Step) {
  ScheduleConfig schedule = schedule_of(ScheduleKind::kStep);
  schedule.step_size = 3;
  schedule.gamma = 0.5;
  EXPECT_EQ(learning_rate_at(schedule, 8.0, 5), 8.0);
  EXPECT_EQ(learning_rate_at(schedule, 8.0, 7), 8.0);
  EXPECT_EQ(learning_rate_at(schedule, 8.0, 8), 4.0);
  EXPECT_EQ(learning_rate_at(schedule, 8.0, 10), 4.0);
  EXPECT_EQ(learning_rate_at(schedule, 8.0, 11), 2.0);
  EXPECT_EQ(learning_rate_at(schedule, 8.0, 14), 1.0);  // beyond total_steps it goes on
}

TEST(LearningRate, InverseSqrt) {
  ScheduleConfig schedule = schedule_of(ScheduleKind::kInverseSqrt);
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 8.0, 5), 8.0 * std::sqrt(4.0 / 5.0));
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 8.0, 16), 4.0);
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 8.0, 64), 2.0);
  schedule.warmup_steps = 0;
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 8.0, 1), 8.0);
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 8.0, 4), 4.0);
}

TEST(LearningRate, WarmUpStableDecay) {
  ScheduleConfig schedule = schedule_of(ScheduleKind::kWsd);
  schedule.decay_steps = 4;
  schedule.min_learning_rate = 2.0;
  EXPECT_EQ(learning_rate_at(schedule, 10.0, 5), 10.0);
  EXPECT_EQ(learning_rate_at(schedule, 10.0, 8), 10.0);
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 10.0, 9), 8.0);
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 10.0, 11), 4.0);
  EXPECT_EQ(learning_rate_at(schedule, 10.0, 12), 2.0);
  EXPECT_EQ(learning_rate_at(schedule, 10.0, 99), 2.0);
}

TEST(LearningRate, WithoutWarmUpTheFirstStepHasDecayed) {
  ScheduleConfig schedule = schedule_of(ScheduleKind::kLinear);
  schedule.warmup_steps = 0;
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 12.0, 1), 11.0);
}

}  // namespace
}  // namespace lockstep::runtime
