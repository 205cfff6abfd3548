#include "runtime/metrics/phase_clock.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <thread>
#include <vector>

#include "comm/make_communicator.h"
#include "core/cuda/stand_in/machine.h"
#include "runtime/metrics/step_timer.h"

namespace lockstep::runtime {
namespace {

using ::testing::Each;

// The stand-in, with a clock that the test moves and work that ends when the test says so.
struct SlowDevice {
  double now = 0.0;  // milliseconds
  int recorded = 0;
  int created = 0;
  int done = 0;  // as many of the recorded marks have been reached
  std::map<core::DeviceEventHandle*, int> order;
  std::map<core::DeviceEventHandle*, double> times;
};
SlowDevice slow;

int create_event(int device, core::DeviceEventHandle** event) {
  ++slow.created;
  return core::cuda::stand_in_runtime().create_event(device, event);
}
int record(core::DeviceEventHandle* event, core::DeviceStreamHandle*) {
  slow.order[event] = slow.recorded++;
  slow.times[event] = slow.now;
  return 0;
}
int finished(core::DeviceEventHandle* event, bool* result) {
  *result = slow.order[event] < slow.done;
  return 0;
}
int milliseconds(core::DeviceEventHandle* begin, core::DeviceEventHandle* end, float* result) {
  EXPECT_LT(slow.order[end], slow.done) << "asked for an event that has not happened";
  *result = static_cast<float>(slow.times[end] - slow.times[begin]);
  return 0;
}

class DevicePhaseClockTest : public ::testing::Test {
 protected:
  DevicePhaseClockTest() {
    slow = {};
    runtime_ = core::cuda::stand_in_runtime();
    runtime_.create_event = create_event;
    runtime_.record = record;
    runtime_.finished = finished;
    runtime_.milliseconds = milliseconds;
    device_ = core::open_device(runtime_, 0);
    stream_ = core::DeviceStream(device_);
  }

  // A phase that takes so long.
  void spend(PhaseClock& clock, Phase phase, double duration) {
    clock.enter(phase);
    slow.now += duration;
  }
  void device_catches_up() { slow.done = slow.recorded; }

  core::DeviceRuntime runtime_;
  core::DeviceRef device_;
  core::DeviceStream stream_;
};

TEST_F(DevicePhaseClockTest, CountsEachPhaseFromItsMarkToTheNext) {
  DevicePhaseClock clock(device_, stream_);
  for (int round = 0; round < 2; ++round) {
    spend(clock, Phase::kForward, 3.0);
    spend(clock, Phase::kBackward, 7.0);
  }
  spend(clock, Phase::kUpdate, 2.0);
  clock.leave();
  slow.now += 100.0;  // of no phase
  spend(clock, Phase::kData, 1.0);
  clock.leave();
  device_catches_up();
  const PhaseSeconds seconds = clock.take();
  EXPECT_NEAR(seconds[Phase::kForward], 6e-3, 1e-8);
  EXPECT_NEAR(seconds[Phase::kBackward], 14e-3, 1e-8);
  EXPECT_NEAR(seconds[Phase::kUpdate], 2e-3, 1e-8);
  EXPECT_NEAR(seconds[Phase::kData], 1e-3, 1e-8);
  EXPECT_NEAR(seconds.total(), 23e-3, 1e-8);
  EXPECT_EQ(clock.take().total(), 0.0) << "told twice";
}

TEST_F(DevicePhaseClockTest, LeavesWhatIsUnderWayForTheNextCall) {
  DevicePhaseClock clock(device_, stream_);
  spend(clock, Phase::kForward, 3.0);
  spend(clock, Phase::kBackward, 7.0);
  clock.leave();
  slow.done = 2;  // the end of backward has not come
  EXPECT_NEAR(clock.take().total(), 3e-3, 1e-8);
  slow.done = 3;
  EXPECT_NEAR(clock.take()[Phase::kBackward], 7e-3, 1e-8);
}

TEST_F(DevicePhaseClockTest, UsesItsEventsAgainAlthoughNobodyTakes) {
  DevicePhaseClock clock(device_, stream_);
  for (int step = 0; step < 1000; ++step) {
    spend(clock, Phase::kForward, 1.0);
    clock.leave();
    device_catches_up();
  }
  EXPECT_LT(slow.created, 100);
  device_catches_up();
  EXPECT_NEAR(clock.take()[Phase::kForward], 1.0, 1e-5);
}

TEST(HostPhaseClock, CountsWhatLiesBetweenMarks) {
  HostPhaseClock clock;
  const auto begin = std::chrono::steady_clock::now();
  clock.enter(Phase::kForward);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  clock.enter(Phase::kUpdate);
  clock.leave();
  const std::chrono::duration<double> all = std::chrono::steady_clock::now() - begin;
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  clock.enter(Phase::kData);  // what was before it counts nowhere
  const PhaseSeconds seconds = clock.take();
  EXPECT_GE(seconds[Phase::kForward], 0.020);
  EXPECT_LE(seconds.total(), all.count());
  EXPECT_EQ(seconds[Phase::kData], 0.0) << "it has not ended";
}

TEST(PhaseSeconds, EveryPhaseHasAName) {
  std::vector<std::string> names;
  for (int i = 0; i < kPhases; ++i)
    names.emplace_back(name_of(static_cast<Phase>(i)));
  EXPECT_THAT(names, Each(::testing::Ne("?")));
}

// What `timing` lines tell is not changed by phases.
TEST(StepTimer, TellsDataApartAndPhasesToo) {
  const auto communicator = comm::make_communicator("self", nullptr, std::chrono::seconds(1));
  StepTimer timer(*communicator);
  timer.begin_step();
  timer.begin_data();
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  timer.end_data();
  timer.phase(Phase::kForward);
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  timer.phase(Phase::kDecide);
  const StepTiming timing = timer.take();
  timer.end_step();
  EXPECT_GE(timing.data, 0.010F);
  EXPECT_GE(timing.compute, 0.010F);
  EXPECT_EQ(timing.wait, 0.0F);
  const PhaseSeconds phases = timer.take_phases();
  EXPECT_GE(phases[Phase::kData], 0.010);
  EXPECT_GE(phases[Phase::kForward], 0.010);
  EXPECT_EQ(phases[Phase::kBackward], 0.0);
}

}  // namespace
}  // namespace lockstep::runtime
