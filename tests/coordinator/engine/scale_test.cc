#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "tests/coordinator/engine/engine_fixture.h"

// 1,000 queued runs: how long calls and a restart take. Printed as they are on the clock; what is
// required is processor time and waiting for the disk, which other work on the machine does not
// stretch as much.
namespace lockstep::coordinator::testing {
namespace {

constexpr int kRuns = 1000;

double seconds_of(clockid_t clock) {
  timespec time{};
  ::clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

class Scale : public EngineTest {
 protected:
  // Prints the spread of the wall times of `count` calls; the p99 of their processor times, in ms.
  template <typename Call>
  static double measure(const char* what, int count, const Call& call) {
    std::vector<double> wall;
    std::vector<double> processor;
    for (int i = 0; i < count; ++i) {
      const double wall_begin = seconds_of(CLOCK_MONOTONIC);
      const double begin = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
      call(i);
      processor.push_back(1e3 * (seconds_of(CLOCK_PROCESS_CPUTIME_ID) - begin));
      wall.push_back(1e3 * (seconds_of(CLOCK_MONOTONIC) - wall_begin));
    }
    std::sort(wall.begin(), wall.end());
    std::sort(processor.begin(), processor.end());
    const auto at = [count](const std::vector<double>& sorted, double part) {
      return sorted[static_cast<std::size_t>(part * (count - 1))];
    };
    std::printf("%-10s x %4d  wall ms p50 %8.3f p99 %8.3f max %8.3f   processor ms p99 %8.3f\n",
                what, count, at(wall, 0.5), at(wall, 0.99), wall.back(), at(processor, 0.99));
    return at(processor, 0.99);
  }
};

TEST_F(Scale, F17_AThousandQueuedRuns) {
  running("busy", 4);
  running("busy2", 2);
  EXPECT_LT(measure("create", kRuns, [&](int i) { submit("q" + std::to_string(i)); }), 50.0);
  const std::vector<RunPtr> all = engine_->list();
  ASSERT_EQ(all.size(), static_cast<std::size_t>(kRuns) + 2);
  const std::string busy = all[0]->run.id;
  EXPECT_LT(measure("tick", 20, [&](int) { engine_->tick(); }), 100.0);
  EXPECT_LT(measure("find", 1000, [&](int) { engine_->find(busy); }), 5.0);
  EXPECT_LT(measure("list", 200, [&](int) { engine_->list(); }), 5.0);
  EXPECT_LT(measure("heartbeat", 1000, [&](int i) { beat(busy, i + 1); }), 5.0);
  const std::string last = all.back()->run.id;
  EXPECT_LT(measure("explain", 50, [&](int) { engine_->explain(last); }), 50.0);
  EXPECT_LT(measure("update", 100,
                    [&](int i) {
                      UpdateRequest update;
                      update.run = all[static_cast<std::size_t>(i) + 2]->run.id;
                      update.notes = "note " + std::to_string(i);
                      engine_->update(update, caller_);
                    }),
            50.0);
  EXPECT_LT(measure("cancel", 100,
                    [&](int i) {
                      engine_->cancel(
                          {all[static_cast<std::size_t>(i) + 2]->run.id, "", false, 1, ""},
                          caller_);
                    }),
            50.0);
  EXPECT_LT(measure("restart", 3,
                    [&](int) {
                      restart();
                      engine_->tick();
                    }),
            3000.0);
  EXPECT_EQ(engine_->list().size(), all.size());
}

// LOCKSTEP_HISTORY_RUNS (default: 400) ended runs under a policy that keeps 50: what they leave behind
// does not grow with them, but for a few hundred bytes each in the audit log.
TEST_F(Scale, F17_AHistoryUnderRetentionStaysSmall) {
  const char* given = std::getenv("LOCKSTEP_HISTORY_RUNS");
  const int history = given == nullptr ? 400 : std::atoi(given);
  constexpr int kKept = 50;
  options_.retention.runs = kKept;
  restart();
  measure("turnover", history, [&](int i) {
    const std::string id = submit("h" + std::to_string(i));
    invariants_.deleted(id);
    engine_->cancel({id, "", false, kSecond, ""}, caller_);
    if (i % 20 == 0) {
      clock_.advance(10);
      engine_->tick();
    }
  });
  clock_.advance(10);
  engine_->tick();
  EXPECT_EQ(engine_->list().size(), static_cast<std::size_t>(kKept));
  const auto bytes = std::filesystem::file_size(options_.state_directory + "/store.db");
  std::printf("store: %.2f MiB after %d runs\n", static_cast<double>(bytes) / 1048576, history);
  EXPECT_LT(bytes, (std::size_t{2} << 20) + static_cast<std::size_t>(history) * 4096);
  EXPECT_LT(measure("restart", 3, [&](int) { restart(); }), 2000.0);
}

}  // namespace
}  // namespace lockstep::coordinator::testing
