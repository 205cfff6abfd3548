#include "tests/support/device_order.h"

#include <gtest/gtest.h>

namespace lockstep::testing {
namespace {

// A trace written by hand. Each call returns its number.
class Trace {
 public:
  std::size_t work(int stream, std::vector<Access> touches = {}) {
    return add({.kind = CallKind::kKernel, .name = "k", .stream = stream, .touches = touches});
  }
  std::size_t record(int stream) { return add({.kind = CallKind::kRecord, .stream = stream}); }
  std::size_t wait(int stream, std::size_t recorded) {
    return add({.kind = CallKind::kWait, .stream = stream, .recorded = recorded});
  }
  std::size_t await(std::size_t recorded) {
    return add({.kind = CallKind::kAwait, .recorded = recorded});
  }
  std::size_t synchronize(int stream) {
    return add({.kind = CallKind::kSynchronize, .stream = stream});
  }
  const DeviceTrace& get() const { return trace_; }

 private:
  std::size_t add(TraceCall call) {
    trace_.calls.push_back(std::move(call));
    return trace_.calls.size() - 1;
  }

  DeviceTrace trace_;
};

TEST(DeviceOrder, StreamsAreInOrderAndUnrelatedToEachOther) {
  Trace trace;
  const std::size_t first = trace.work(0);
  const std::size_t other = trace.work(1);
  const std::size_t second = trace.work(0);
  const DeviceOrder order(trace.get());
  EXPECT_TRUE(order.ordered(first, second));
  EXPECT_FALSE(order.ordered(first, other));
  EXPECT_FALSE(order.ordered(other, second));
}

TEST(DeviceOrder, AWaitOrdersWhatIsBehindItAfterWhatIsBeforeThePoint) {
  Trace trace;
  const std::size_t before = trace.work(0);
  const std::size_t point = trace.record(0);
  const std::size_t after = trace.work(0);
  const std::size_t early = trace.work(1);
  const std::size_t wait = trace.wait(1, point);
  const std::size_t held_back = trace.work(1);
  const DeviceOrder order(trace.get());
  EXPECT_TRUE(order.ordered(before, held_back));
  EXPECT_FALSE(order.ordered(after, held_back));
  EXPECT_FALSE(order.ordered(before, early));
  EXPECT_FALSE(DeviceOrder(trace.get(), {wait}).ordered(before, held_back));
  EXPECT_EQ(trace.get().waited_work(wait), before);
}

TEST(DeviceOrder, WaitsReachThroughAThirdStream) {
  Trace trace;
  const std::size_t first = trace.work(0);
  trace.wait(1, trace.record(0));
  trace.wait(2, trace.record(1));  // of a stream without work of its own
  const std::size_t second = trace.work(2);
  EXPECT_TRUE(DeviceOrder(trace.get()).ordered(first, second));
}

TEST(DeviceOrder, AnEventRecordedBeforeTheTraceOrdersNothing) {
  Trace trace;
  const std::size_t first = trace.work(0);
  trace.wait(1, TraceCall::kNever);
  const std::size_t second = trace.work(1);
  EXPECT_FALSE(DeviceOrder(trace.get()).ordered(first, second));
}

TEST(DeviceOrder, WhatTheHostHasWaitedForComesBeforeAllThatItGivesLater) {
  Trace trace;
  const std::size_t first = trace.work(0);
  const std::size_t point = trace.record(0);
  const std::size_t behind = trace.work(0);
  const std::size_t early = trace.work(1);
  const std::size_t await = trace.await(point);
  const std::size_t late = trace.work(1);
  const std::size_t again = trace.await(point);
  const std::size_t all = trace.synchronize(0);
  const DeviceOrder order(trace.get());
  EXPECT_TRUE(order.ordered(first, late));
  EXPECT_FALSE(order.ordered(first, early));
  EXPECT_FALSE(order.ordered(behind, late));

  const std::vector<HostWait>& waits = order.host_waits();
  ASSERT_EQ(waits.size(), 3U);
  EXPECT_EQ(waits[0].call, await);
  EXPECT_TRUE(waits[0].waits);
  EXPECT_EQ(waits[0].behind, (std::vector<std::size_t>{1, 1}));
  EXPECT_EQ(waits[1].call, again);
  EXPECT_FALSE(waits[1].waits);
  EXPECT_EQ(waits[2].call, all);
  EXPECT_EQ(waits[2].behind, (std::vector<std::size_t>{0, 2}));
}

TEST(DeviceOrder, HazardsAreWhatOverlapsOnDifferentStreamsAndIsWritten) {
  Trace trace;
  const std::size_t write = trace.work(0, {{100, 200, true}});
  trace.work(0, {{100, 200, true}});  // the same stream
  trace.work(1, {{200, 300, true}});  // beside it
  const std::size_t read = trace.work(1, {{0, 10, true}, {199, 200, false}});
  trace.work(2, {{199, 200, false}});
  const std::vector<Hazard> hazards = hazards_of(trace.get());
  ASSERT_EQ(hazards.size(), 4U);  // two writes, two readers
  EXPECT_EQ(hazards.front().first, write);
  EXPECT_EQ(hazards.front().second, read);
  EXPECT_FALSE(DeviceOrder(trace.get()).holds(hazards));
  EXPECT_NE(describe(trace.get(), hazards.front()).find("writes what"), std::string::npos);
}

}  // namespace
}  // namespace lockstep::testing
