#include "runtime/health/straggler_watch.h"

#include <gtest/gtest.h>

#include <vector>

#include "runtime/metrics/timing_log.h"

namespace lockstep::runtime {
namespace {

StepTiming timing(double data_ms, double compute_ms) {
  return {static_cast<float>(data_ms * 1e-3), static_cast<float>(compute_ms * 1e-3), 1.0F};
}

// The calls, counted from 1, in which something was said.
std::vector<int> told_in(StragglerWatch& watch, const std::vector<StepTiming>& timings, int calls) {
  std::vector<int> told;
  for (int call = 1; call <= calls; ++call) {
    if (!watch.observe(timings).empty()) told.push_back(call);
  }
  return told;
}

TEST(StragglerWatch, NamesTheSlowRankAndItsPhase) {
  StragglerWatch watch(3);
  const std::vector<StepTiming> timings{timing(1, 29), timing(1, 28), timing(2, 41)};
  for (int i = 1; i < StragglerWatch::kWindow; ++i)
    EXPECT_TRUE(watch.observe(timings).empty()) << i;
  const std::vector<Straggler> found = watch.observe(timings);
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].rank, 2);
  EXPECT_EQ(found[0].phase, Straggler::Phase::kCompute);
  EXPECT_EQ(found[0].describe(),
            "rank 2 is slow: compute 41 ms against a median of 29 ms over 20 steps");
}

TEST(StragglerWatch, NamesDataWhereThatIsTheCause) {
  StragglerWatch watch(2);
  std::vector<Straggler> found;
  for (int i = 0; i < StragglerWatch::kWindow; ++i)
    found = watch.observe(std::vector<StepTiming>{timing(30, 31), timing(2, 30)});
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].describe(),
            "rank 0 is slow: data 30 ms against a median of 2 ms over 20 steps");
}

TEST(StragglerWatch, SaysItOnceInAHundredSteps) {
  StragglerWatch watch(2);
  EXPECT_EQ(told_in(watch, {timing(0, 10), timing(0, 30)}, 250), (std::vector<int>{20, 120, 220}));
}

TEST(StragglerWatch, SmallDifferencesAreNone) {
  StragglerWatch by_share(2);  // 10 ms more, but of 100 ms
  EXPECT_TRUE(told_in(by_share, {timing(0, 100), timing(0, 110)}, 50).empty());
  StragglerWatch by_time(2);  // four times as long, but 3 ms
  EXPECT_TRUE(told_in(by_time, {timing(0, 1), timing(0, 4)}, 50).empty());
}

TEST(StragglerWatch, SixteenOfTwentyStepsMakeAStraggler) {
  const std::vector<StepTiming> even{timing(0, 10), timing(0, 10)};
  const std::vector<StepTiming> uneven{timing(0, 10), timing(0, 40)};
  for (const int slow : {15, 16}) {
    StragglerWatch watch(2);
    bool told = false;
    for (int i = 0; i < StragglerWatch::kWindow; ++i)
      told |= !watch.observe(i < slow ? uneven : even).empty();
    EXPECT_EQ(told, slow == 16) << slow;
  }
}

TEST(StragglerWatch, WaitingIsNotSlowness) {
  StragglerWatch watch(2);
  std::vector<StepTiming> timings{timing(0, 10), timing(0, 10)};
  timings[1].wait = 100.0F;
  EXPECT_TRUE(told_in(watch, timings, 50).empty());
}

TEST(StragglerWatch, OneRankIsNeverSlow) {
  StragglerWatch watch(1);
  EXPECT_TRUE(told_in(watch, {timing(50, 1000)}, 50).empty());
}

TEST(TimingLog, WritesMeansPerRank) {
  TimingLog log(1);  // never more often than every ten steps
  std::optional<std::string> line;
  for (int step = 5; step <= 10; ++step) {  // a resumed run begins anywhere
    EXPECT_FALSE(line);
    const StepTiming other{0.0F, step == 7 ? 3.0F : 0.0F, 0.5F};
    line = log.observe(step, std::vector<StepTiming>{{0.25F, 1.0F, 0.0F}, other});
  }
  ASSERT_TRUE(line);
  EXPECT_EQ(*line, R"("step":10,"steps":6,"data_seconds":[0.250000,0.000000],)"
                   R"("compute_seconds":[1.000000,0.500000],"wait_seconds":[0.000000,0.500000])");
  line = log.observe(11, std::vector<StepTiming>{{}, {}});
  EXPECT_FALSE(line);
}

TEST(TimingLog, FollowsTheCadenceOfMetrics) {
  TimingLog log(25);
  std::vector<int> lines;
  for (int step = 1; step <= 60; ++step) {
    if (log.observe(step, std::vector<StepTiming>{{}})) lines.push_back(step);
  }
  EXPECT_EQ(lines, (std::vector<int>{25, 50}));
}

}  // namespace
}  // namespace lockstep::runtime
