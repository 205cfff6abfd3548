// How much of communication is hidden and how much exposed: the arithmetic of a device's events on
// a clock that the test moves, then every kind of communicator.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <barrier>
#include <chrono>
#include <limits>
#include <map>
#include <thread>

#include "comm/device/device_comm_timer.h"
#include "comm/device/staged_communicator.h"
#include "core/cuda/stand_in/machine.h"
#include "tests/comm/nccl_ranks.h"
#include "tests/support/gate.h"

namespace lockstep::comm::testing {
namespace {

using core::DType;
using lockstep::testing::Gate;
using std::chrono_literals::operator""ms;
using std::chrono_literals::operator""s;

constexpr double kClose = 1e-7;  // seconds; events tell milliseconds in fp32

// A device whose streams have clocks of their own, which the test moves.
struct ClockedDevice {
  std::map<core::DeviceStreamHandle*, double> now;  // milliseconds
  std::map<core::DeviceEventHandle*, double> times;
  double seen = std::numeric_limits<double>::infinity();  // later events have not happened
  int created = 0;
};
ClockedDevice clocked;

int create_event(int device, core::DeviceEventHandle** event) {
  ++clocked.created;
  return core::cuda::stand_in_runtime().create_event(device, event);
}
int record(core::DeviceEventHandle* event, core::DeviceStreamHandle* stream) {
  clocked.times[event] = clocked.now[stream];
  return 0;
}
int wait(core::DeviceStreamHandle* stream, core::DeviceEventHandle* event) {
  clocked.now[stream] = std::max(clocked.now[stream], clocked.times[event]);
  return 0;
}
int finished(core::DeviceEventHandle* event, bool* result) {
  *result = clocked.times.at(event) <= clocked.seen;
  return 0;
}
int milliseconds(core::DeviceEventHandle* begin, core::DeviceEventHandle* end, float* result) {
  EXPECT_LE(clocked.times.at(begin), clocked.seen) << "asked for an event that has not happened";
  EXPECT_LE(clocked.times.at(end), clocked.seen) << "asked for an event that has not happened";
  *result = static_cast<float>(clocked.times[end] - clocked.times[begin]);
  return 0;
}

class DeviceCommTimerTest : public ::testing::Test {
 protected:
  DeviceCommTimerTest() {
    clocked = {};
    runtime_ = core::cuda::stand_in_runtime();
    runtime_.create_event = create_event;
    runtime_.record = record;
    runtime_.wait = wait;
    runtime_.finished = finished;
    runtime_.milliseconds = milliseconds;
    device_ = core::open_device(runtime_, 0);
    compute_ = core::DeviceStream(device_);
    moving_ = core::DeviceStream(device_);
    timer_.emplace(device_);
  }

  void compute(double duration) { clocked.now[compute_.handle()] += duration; }
  // As NCCL's communicator does it. The point at which it is over.
  core::DeviceEvent move(Collective collective, double duration) {
    core::DeviceEvent ready(device_);
    ready.record(compute_);
    ready.hold_back(moving_);
    timer_->begin(collective, moving_);
    clocked.now[moving_.handle()] += duration;
    timer_->end(moving_);
    ready.record(moving_);
    return ready;
  }
  void wait_for(const core::DeviceEvent& event) {
    timer_->stand_still(compute_, [&] { event.hold_back(compute_); });
  }
  static void expect(const CommSeconds& seconds, double hidden_ms, double exposed_ms) {
    EXPECT_NEAR(seconds.hidden, hidden_ms * 1e-3, kClose);
    EXPECT_NEAR(seconds.exposed, exposed_ms * 1e-3, kClose);
  }

  core::DeviceRuntime runtime_;
  core::DeviceRef device_;
  core::DeviceStream compute_;
  core::DeviceStream moving_;
  std::optional<DeviceCommTimer> timer_;
};

TEST_F(DeviceCommTimerTest, WhatIsWaitedForIsExposedAndWhatIsCoveredIsHidden) {
  compute(1.0);
  wait_for(move(Collective::kReduceScatter, 10.0));
  expect(timer_->take()[CommKind::kReduce], 0.0, 10.0);

  const core::DeviceEvent covered = move(Collective::kReduceScatter, 10.0);
  compute(12.0);
  wait_for(covered);
  expect(timer_->take()[CommKind::kReduce], 10.0, 0.0);

  const core::DeviceEvent partly = move(Collective::kAllReduce, 10.0);
  compute(4.0);
  wait_for(partly);
  compute(100.0);
  wait_for(partly);  // twice costs nothing
  const CommTimes times = timer_->take();
  expect(times[CommKind::kReduce], 4.0, 6.0);
  expect(times[CommKind::kGather], 0.0, 0.0);
  expect(times.all(), 4.0, 6.0);
  expect(timer_->take().all(), 0.0, 0.0);
}

// Whoever waits for the second waits for the first too, and each is told under its own kind.
TEST_F(DeviceCommTimerTest, TellsKindsApartWhateverIsWaitedFor) {
  move(Collective::kReduceScatter, 10.0);
  move(Collective::kBroadcast, 2.0);  // of no kind
  const core::DeviceEvent gathered = move(Collective::kAllGather, 5.0);
  compute(3.0);
  wait_for(gathered);
  const CommTimes times = timer_->take();
  expect(times[CommKind::kReduce], 3.0, 7.0);
  expect(times[CommKind::kGather], 0.0, 5.0);
}

TEST_F(DeviceCommTimerTest, WhatNobodyWaitsForIsHidden) {
  move(Collective::kAllGather, 5.0);
  expect(timer_->take()[CommKind::kGather], 5.0, 0.0);
}

// Time between collectives is not communication, though the stream waits.
TEST_F(DeviceCommTimerTest, CountsOnlyWhileACollectiveTakesPlace) {
  const core::DeviceEvent first = move(Collective::kAllGather, 5.0);
  clocked.now[moving_.handle()] += 20.0;
  core::DeviceEvent later(device_);
  later.record(moving_);
  wait_for(later);
  wait_for(first);
  expect(timer_->take()[CommKind::kGather], 0.0, 5.0);
}

// As over host memory: the next one is on its way before the last has returned.
TEST_F(DeviceCommTimerTest, CountsTimeOnceWhereCollectivesOverlap) {
  timer_->begin(Collective::kReduceScatter, compute_);
  compute(1.0);
  timer_->begin(Collective::kAllGather, compute_);
  clocked.now[moving_.handle()] = 10.0;
  timer_->end(moving_);
  clocked.now[moving_.handle()] = 14.0;
  timer_->end(moving_);
  core::DeviceEvent returned(device_);
  returned.record(moving_);
  compute(5.0);
  wait_for(returned);
  const CommTimes times = timer_->take();
  expect(times[CommKind::kReduce], 6.0, 4.0);
  expect(times[CommKind::kGather], 0.0, 4.0);
}

TEST_F(DeviceCommTimerTest, LeavesWhatIsUnderWayForTheNextCall) {
  const core::DeviceEvent reduced = move(Collective::kReduceScatter, 10.0);
  compute(2.0);
  wait_for(reduced);
  const core::DeviceEvent gathered = move(Collective::kAllGather, 10.0);  // until 20
  clocked.seen = 9.0;
  expect(timer_->take().all(), 0.0, 0.0);
  clocked.seen = 15.0;
  expect(timer_->take().all(), 2.0, 8.0);
  wait_for(gathered);
  clocked.seen = 19.0;
  expect(timer_->take().all(), 0.0, 0.0);
  clocked.seen = 20.0;
  expect(timer_->take().all(), 0.0, 10.0);
}

TEST_F(DeviceCommTimerTest, UsesItsEventsAgainAlthoughNobodyTakes) {
  constexpr int kRounds = 1000;
  for (int i = 0; i < kRounds; ++i) {
    const core::DeviceEvent done = move(Collective::kReduceScatter, 3.0);
    compute(1.0);
    wait_for(done);
  }
  EXPECT_LT(clocked.created, kRounds + 300) << "besides one of the test's own each";
  const CommTimes times = timer_->take();
  EXPECT_NEAR(times.all().hidden, 1.0, 1e-4);
  EXPECT_NEAR(times.all().exposed, 2.0, 1e-4);
}

// ---- Communicators --------------------------------------------------------------------------

core::TensorView floats(const core::Buffer& buffer, std::int64_t count) {
  return buffer.view(DType::kF32, {count});
}

constexpr std::chrono::milliseconds kSlow = 60ms;
constexpr std::chrono::milliseconds kLong = 400ms;
constexpr double kSlowSeconds = 0.06;

// Rank 0 launches a collective that takes kSlow, gives its stream `work`, and waits.
CommTimes measure_nccl(std::chrono::milliseconds work) {
  CommTimes times;
  const NcclFaults slow{.rank = 0, .slower = kSlow};
  run_nccl(
      2, 60s,
      [&](const Site& site) {
        Communicator& comm = site.comm;
        core::MemoryTracker tracker;
        const core::Buffer data(tracker, "test", 4000, site.device);
        comm.all_reduce(floats(data, 1000), floats(data, 1000), ReduceOp::kSum, "before").wait();
        site.stream->synchronize();
        comm.measure_times();
        Gate gate;
        enqueue(site.stream->handle(), [&] { gate.pass(); });
        Work reduced =
            comm.all_reduce(floats(data, 1000), floats(data, 1000), ReduceOp::kSum, "measured");
        if (comm.rank() == 0)
          enqueue(site.stream->handle(), [=] { std::this_thread::sleep_for(work); });
        reduced.wait();
        gate.open();
        site.stream->synchronize();
        const CommTimes own = comm.take_times();
        if (comm.rank() == 0) times = own;
      },
      slow);
  return times;
}

TEST(CommTimesOfNccl, ASlowCollectiveIsExposedToWhoWaitsAtOnce) {
  const CommTimes times = measure_nccl(0ms);
  EXPECT_EQ(times.why_unknown, "");
  EXPECT_GE(times[CommKind::kReduce].total(), kSlowSeconds);
  EXPECT_GT(times[CommKind::kReduce].exposed, 0.5 * times[CommKind::kReduce].total());
  EXPECT_EQ(times[CommKind::kGather].total(), 0.0);
}

TEST(CommTimesOfNccl, ASlowCollectiveIsHiddenByEnoughOtherWork) {
  const CommTimes times = measure_nccl(kLong);
  EXPECT_GE(times[CommKind::kReduce].hidden, kSlowSeconds);
  EXPECT_LT(times[CommKind::kReduce].exposed, 0.1 * times[CommKind::kReduce].total());
}

// The ranks begin together, measuring, and rank 1 is late by kSlow.
CommTimes measure_late_peer(const LocalWorld::Wrap& wrap,
                            const std::function<void(Communicator&)>& body) {
  CommTimes times;
  std::barrier together(2);
  const LocalWorld world(2, 60s);
  world.run(
      [&](Communicator& comm) {
        comm.measure_times();
        together.arrive_and_wait();
        if (comm.rank() == 1) std::this_thread::sleep_for(kSlow);
        body(comm);
        const CommTimes own = comm.take_times();
        if (comm.rank() == 0) times = own;
        together.arrive_and_wait();
      },
      wrap);
  return times;
}

CommTimes measure_staged(std::chrono::milliseconds work) {
  const auto wrap = [](std::unique_ptr<Communicator> host) {
    return make_staged_communicator(std::move(host), async_device());
  };
  return measure_late_peer(wrap, [&](Communicator& comm) {
    const core::DeviceStream stream(async_device());
    comm.work_on(stream);
    core::MemoryTracker tracker;
    const core::Buffer shard(tracker, "test", 2000, async_device());
    const core::Buffer whole(tracker, "test", 4000, async_device());
    Work gathered = comm.all_gather(floats(shard, 500), floats(whole, 1000), "late");
    if (comm.rank() == 0) enqueue(stream.handle(), [=] { std::this_thread::sleep_for(work); });
    gathered.wait();
    stream.synchronize();
  });
}

TEST(CommTimesOverHostMemory, ALatePeerIsExposedToWhoWaitsAtOnce) {
  const CommTimes times = measure_staged(0ms);
  EXPECT_GT(times[CommKind::kGather].exposed, 0.5 * kSlowSeconds);
  EXPECT_LT(times[CommKind::kGather].hidden, times[CommKind::kGather].exposed);
  EXPECT_EQ(times[CommKind::kReduce].total(), 0.0);
}

TEST(CommTimesOverHostMemory, ALatePeerIsHiddenByEnoughOtherWork) {
  const CommTimes times = measure_staged(kLong);
  EXPECT_GT(times[CommKind::kGather].hidden, 0.5 * kSlowSeconds);
  EXPECT_LT(times[CommKind::kGather].exposed, 0.1 * times[CommKind::kGather].total());
}

TEST(CommTimesOnTheHost, WaitingForALatePeerIsExposed) {
  const CommTimes times = measure_late_peer({}, [](Communicator& comm) {
    std::vector<float> data(1000, 1.0F);
    const core::TensorView view(data.data(), DType::kF32, {1000});
    comm.all_reduce(view, view, ReduceOp::kSum, "late").wait();
  });
  EXPECT_GT(times[CommKind::kReduce].exposed, 0.5 * kSlowSeconds);
  EXPECT_LT(times[CommKind::kReduce].hidden, times[CommKind::kReduce].exposed);
  EXPECT_EQ(times[CommKind::kGather].total(), 0.0);
}

TEST(CommTimesOnTheHost, WhatProgressDoesIsHidden) {
  constexpr std::int64_t kElements = std::int64_t{8} << 20;
  CommTimes times;
  std::barrier launched(2);
  const LocalWorld world(2, 60s);
  world.run([&](Communicator& comm) {
    core::MemoryTracker tracker;
    const SharedBuffer whole = comm.allocate(kElements * sizeof(float), "test", tracker);
    const std::size_t own = static_cast<std::size_t>(comm.rank()) * kElements / 2 * sizeof(float);
    comm.measure_times();
    Work gathered = comm.all_gather(whole.view(DType::kF32, {kElements / 2}, own),
                                    whole.view(DType::kF32, {kElements}), "early");
    launched.arrive_and_wait();
    comm.progress();
    gathered.wait_output();
    const CommTimes own_times = comm.take_times();
    if (comm.rank() == 0) times = own_times;
    gathered.wait();
  });
  EXPECT_GT(times[CommKind::kGather].hidden, 1e-4);
  EXPECT_LT(times[CommKind::kGather].exposed, times[CommKind::kGather].hidden);
  EXPECT_EQ(times[CommKind::kReduce].total(), 0.0);
}

TEST(CommTimesOnTheHost, SmallExchangesAndBarriersAreLeftOut) {
  const CommTimes times = measure_late_peer({}, [](Communicator& comm) {
    comm.all_gather_small(comm.rank(), "report");
    comm.barrier("both");
  });
  EXPECT_EQ(times.all().total(), 0.0);
}

TEST(CommTimes, OneRankHasNothingToTell) {
  run_nccl(1, 60s, [](const Site& site) {
    site.comm.measure_times();
    EXPECT_THAT(site.comm.take_times().why_unknown, ::testing::HasSubstr("one rank"));
  });
}

}  // namespace
}  // namespace lockstep::comm::testing
