// Device views over the host backends, on the stand-in for a device.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <string>
#include <tuple>
#include <vector>

#include "comm/device/staged_communicator.h"
#include "comm/local/local_world.h"
#include "comm/make_communicator.h"
#include "comm/self/self_communicator.h"
#include "core/cuda/stand_in/machine.h"
#include "tests/comm/conformance.h"
#include "tests/comm/expect_error.h"
#include "tests/support/async_device.h"

namespace lockstep::comm::testing {
namespace {

using core::DType;
using core::cuda::stand_in_runtime;
using core::cuda::stand_in_settings;
using lockstep::testing::async_device;
using lockstep::testing::early_frees;
using lockstep::testing::live_events;
using lockstep::testing::live_streams;
using ::testing::ElementsAre;
using std::chrono_literals::operator""ms;
using std::chrono_literals::operator""s;

core::DeviceRef stand_in() {
  return core::open_device(stand_in_runtime(), 0);
}

// One group of ranks on a device whose streams run on their own.
void run_staged(int ranks, const std::function<void(const Site&)>& body) {
  const LocalWorld world(ranks, 60s);
  world.run(
      [&](Communicator& comm) {
        const core::DeviceStream stream(async_device());
        comm.work_on(stream);
        body({comm, async_device(), &stream});
      },
      [](std::unique_ptr<Communicator> host) {
        return make_staged_communicator(std::move(host), async_device());
      });
  EXPECT_EQ(live_streams(), 0);
  EXPECT_EQ(live_events(), 0);
}

using StagedParam = std::tuple<int, ConformanceCase>;

std::string staged_name(const ::testing::TestParamInfo<StagedParam>& info) {
  return std::get<1>(info.param).name + "World" + std::to_string(std::get<0>(info.param));
}

class StagedConformance : public ::testing::TestWithParam<StagedParam> {};

TEST_P(StagedConformance, HoldsOnTheDevice) {
  const int before = early_frees();
  run_staged(std::get<0>(GetParam()), std::get<1>(GetParam()).check);
  EXPECT_EQ(early_frees(), before) << "memory was freed that the device was still to touch";
}

INSTANTIATE_TEST_SUITE_P(Cases, StagedConformance,
                         ::testing::Combine(::testing::Values(1, 2, 3, 4, 7),
                                            ::testing::ValuesIn(conformance_cases())),
                         staged_name);

// Views on the CPU are served by the same communicators.
class StagedHostViews : public ::testing::TestWithParam<StagedParam> {};

TEST_P(StagedHostViews, AreServedToo) {
  run_staged(std::get<0>(GetParam()),
             [](const Site& site) { std::get<1>(GetParam()).check({.comm = site.comm}); });
}

INSTANTIATE_TEST_SUITE_P(Cases, StagedHostViews,
                         ::testing::Combine(::testing::Values(1, 3),
                                            ::testing::ValuesIn(conformance_cases())),
                         staged_name);

class StagedMisuse : public ::testing::TestWithParam<StagedParam> {};

TEST_P(StagedMisuse, IsAnErrorThatNamesTheRank) {
  run_staged(std::get<0>(GetParam()), std::get<1>(GetParam()).check);
}

INSTANTIATE_TEST_SUITE_P(Cases, StagedMisuse,
                         ::testing::Combine(::testing::Values(2, 3),
                                            ::testing::ValuesIn(misuse_cases())),
                         staged_name);

core::TensorView floats(const core::Buffer& buffer, std::int64_t count, std::int64_t begin = 0) {
  return buffer.view(DType::kF32, {count}, static_cast<std::size_t>(begin) * sizeof(float));
}

// With one rank: copies on the device, nothing in place, and the host never waits.
TEST(Solo, NeverWaitsAndCopiesOnlyWhatIsNotInPlace) {
  const auto comm = make_communicator("auto", nullptr, 10s, stand_in());
  EXPECT_EQ(comm->backend(), "self");
  EXPECT_EQ(comm->device(), stand_in().device);
  const core::DeviceStream stream(stand_in());
  comm->work_on(stream);
  core::MemoryTracker tracker;
  const core::Buffer a(tracker, "test", 64, stand_in());
  const core::Buffer b(tracker, "test", 64, stand_in());
  std::vector<std::string> calls;
  stand_in_settings().record = &calls;
  comm->all_reduce(floats(a, 16), floats(a, 16), ReduceOp::kSum, "x").wait();
  comm->reduce_scatter(floats(a, 16), floats(a, 16), Output::kOverwrite, "x").wait();
  comm->all_gather(floats(a, 16), floats(a, 16), "x").wait();
  comm->broadcast(floats(a, 16), 0, "x").wait();
  const std::vector<std::string> in_place = calls;
  calls.clear();
  comm->all_reduce(floats(a, 16), floats(b, 16), ReduceOp::kMax, "x").wait();
  comm->reduce_scatter(floats(a, 8), floats(b, 8), Output::kOverwrite, "x").wait();
  comm->all_gather(floats(a, 4), floats(b, 4), "x").wait();
  comm->all_to_all(floats(a, 2), floats(b, 2), "x").wait();
  stand_in_settings() = {};
  EXPECT_THAT(in_place, ::testing::Each("record"));
  std::erase(calls, "record");
  EXPECT_THAT(calls, ElementsAre("copy 64 bytes on the device", "copy 32 bytes on the device",
                                 "copy 16 bytes on the device", "copy 8 bytes on the device"));
}

// A wait on another stream than the one of the launch is an edge between the two.
TEST(Solo, AnotherStreamWaitsForTheFirst) {
  const auto comm = make_communicator("self", nullptr, 10s, stand_in());
  const core::DeviceStream first(stand_in());
  const core::DeviceStream second(stand_in());
  core::MemoryTracker tracker;
  const core::Buffer a(tracker, "test", 64, stand_in());
  std::vector<std::string> calls;
  stand_in_settings().record = &calls;
  comm->work_on(first);
  Work work = comm->all_reduce(floats(a, 16), floats(a, 16), ReduceOp::kSum, "x");
  comm->work_on(second);
  work.wait_output();
  stand_in_settings() = {};
  EXPECT_THAT(calls, ElementsAre("record", "wait"));
}

TEST(Staged, StreamsAreAskedForAndMustFit) {
  const auto comm = make_communicator("self", nullptr, 10s, stand_in());
  core::MemoryTracker tracker;
  const core::Buffer a(tracker, "test", 64, stand_in());
  expect_error(core::ErrorKind::kInternal, {"work_on"},
               [&] { comm->all_gather(floats(a, 16), floats(a, 16), "x"); });
  const core::DeviceStream other(core::open_device(stand_in_runtime(), 1));
  expect_error(core::ErrorKind::kInternal, {"cuda:1", "cuda:0"}, [&] { comm->work_on(other); });
  const auto host = make_self_communicator(10s);
  expect_error(core::ErrorKind::kInternal, {"cuda:1", "self", "the CPU only"},
               [&] { host->work_on(other); });
}

// The device of rank 1 never comes to the collective.
TEST(Staged, AHangingDeviceIsNamedOnEveryRank) {
  static core::DeviceRuntime stuck = stand_in_runtime();
  stuck.finished = [](core::DeviceEventHandle*, bool* finished) {
    *finished = false;
    return 0;
  };
  const LocalWorld world(3, 10s);
  world.run(
      [](Communicator& comm) {
        const core::DeviceRef device = comm.rank() == 1 ? core::open_device(stuck, 0) : stand_in();
        const core::DeviceStream stream(device);
        comm.work_on(stream);
        core::MemoryTracker tracker;
        const core::Buffer a(tracker, "test", 64, device);
        expect_error(
            core::ErrorKind::kCommunication,
            {"rank 1 (host", "cuda:0 has not come to all_reduce (block.7) for "}, [&] {
              Work work = comm.all_reduce(floats(a, 16), floats(a, 16), ReduceOp::kSum, "block.7");
              work.wait(std::chrono::steady_clock::now() + (comm.rank() == 1 ? 200ms : 5000ms));
            });
      },
      [](std::unique_ptr<Communicator> host) {
        const bool hangs = host->rank() == 1;
        return make_staged_communicator(std::move(host),
                                        hangs ? core::open_device(stuck, 0) : stand_in());
      });
}

// wait_input alone lets the stream go on, and what it is given then comes after the input was read.
TEST(Staged, TheInputMayBeOverwrittenAfterWaitInput) {
  run_staged(2, [](const Site& site) {
    constexpr std::int64_t kCount = 5000;
    core::MemoryTracker tracker;
    const core::Buffer input(tracker, "test", kCount * sizeof(float), site.device);
    const core::Buffer output(tracker, "test", 2 * kCount * sizeof(float), site.device);
    const std::vector<float> ones(kCount, 1.0F);
    std::vector<float> result(2 * kCount);
    for (int round = 0; round < 100; ++round) {
      site.stream->to_device(input.data(), ones.data(), input.bytes());
      Work work = site.comm.all_gather(floats(input, kCount), floats(output, 2 * kCount), "x");
      work.wait_input();
      site.stream->fill(input.data(), 0, input.bytes());
      work.wait_output();
      site.stream->to_host(result.data(), output.data(), output.bytes());
      ASSERT_EQ(result, std::vector<float>(2 * kCount, 1.0F)) << "round " << round;
    }
  });
}

TEST(Staged, PinnedMemoryIsCountedAndGivenBack) {
  static std::atomic<std::size_t> pinned{0};
  static std::atomic<int> held{0};
  static core::DeviceRuntime counting = stand_in_runtime();
  counting.allocate_pinned = [](std::size_t bytes, void** memory) {
    pinned += bytes;
    ++held;
    return stand_in_runtime().allocate_pinned(bytes, memory);
  };
  counting.release_pinned = [](void* memory) {
    --held;
    return stand_in_runtime().release_pinned(memory);
  };
  const LocalWorld world(2, 10s);
  world.run(
      [](Communicator& comm) {
        const core::DeviceRef device = core::open_device(counting, 0);
        const core::DeviceStream stream(device);
        comm.work_on(stream);
        core::MemoryTracker tracker;
        const core::Buffer a(tracker, "test", 4000, device);
        const std::size_t before = comm.internal_bytes();
        comm.all_gather(floats(a, 500, 500 * comm.rank()), floats(a, 1000), "x").wait();
        EXPECT_EQ(comm.internal_bytes(), before + 4000);
        comm.barrier("end");
        EXPECT_EQ(pinned, 8000U);
      },
      [](std::unique_ptr<Communicator> host) {
        return make_staged_communicator(std::move(host), core::open_device(counting, 0));
      });
  EXPECT_EQ(held, 0);
}

}  // namespace
}  // namespace lockstep::comm::testing
