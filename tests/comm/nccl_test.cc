// NCCL over its stand-in: what every backend must do, and what is this one's own.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <string>
#include <tuple>
#include <vector>

#include "comm/flight_log.h"
#include "comm/flight_recorder.h"
#include "comm/nccl/nccl_library.h"
#include "tests/comm/expect_error.h"
#include "tests/comm/nccl_ranks.h"
#include "tests/support/gate.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::comm::testing {
namespace {

using core::DType;
using lockstep::testing::Gate;
using std::chrono_literals::operator""ms;
using std::chrono_literals::operator""s;

using NcclParam = std::tuple<int, ConformanceCase>;

std::string nccl_name(const ::testing::TestParamInfo<NcclParam>& info) {
  return std::get<1>(info.param).name + "World" + std::to_string(std::get<0>(info.param));
}

class NcclConformance : public ::testing::TestWithParam<NcclParam> {};

TEST_P(NcclConformance, HoldsOnTheDevice) {
  const int before = early_frees();
  run_nccl(std::get<0>(GetParam()), 60s, std::get<1>(GetParam()).check);
  EXPECT_EQ(early_frees(), before) << "memory was freed that the device was still to touch";
}

INSTANTIATE_TEST_SUITE_P(Cases, NcclConformance,
                         ::testing::Combine(::testing::Values(1, 2, 3, 4, 7),
                                            ::testing::ValuesIn(conformance_cases())),
                         nccl_name);

class NcclHostViews : public ::testing::TestWithParam<NcclParam> {};

TEST_P(NcclHostViews, AreServedToo) {
  run_nccl(std::get<0>(GetParam()), 60s,
           [](const Site& site) { std::get<1>(GetParam()).check({.comm = site.comm}); });
}

INSTANTIATE_TEST_SUITE_P(Cases, NcclHostViews,
                         ::testing::Combine(::testing::Values(3),
                                            ::testing::ValuesIn(usage_cases())),
                         nccl_name);

// The communicator's timeout is what ends the case of the missing rank.
class NcclMisuse : public ::testing::TestWithParam<NcclParam> {};

TEST_P(NcclMisuse, IsAnErrorThatNamesTheRank) {
  run_nccl(std::get<0>(GetParam()), 1s, std::get<1>(GetParam()).check);
}

INSTANTIATE_TEST_SUITE_P(Cases, NcclMisuse,
                         ::testing::Combine(::testing::Values(2, 3),
                                            ::testing::ValuesIn(misuse_cases())),
                         nccl_name);

core::TensorView floats(const core::Buffer& buffer, std::int64_t count, std::int64_t begin = 0) {
  return buffer.view(DType::kF32, {count}, static_cast<std::size_t>(begin) * sizeof(float));
}

// The host launches, waits and goes on while its device has not come to the collective.
TEST(Nccl, TheHostNeverWaitsForTheDevice) {
  run_nccl(2, 60s, [](const Site& site) {
    Communicator& comm = site.comm;
    EXPECT_EQ(comm.backend(), "nccl");
    core::MemoryTracker tracker;
    const core::Buffer data(tracker, "test", 4000, site.device);
    Gate gate;
    enqueue(site.stream->handle(), [&] { gate.pass(); });
    const std::vector<float> ones(500, 1.0F);
    site.stream->to_device(floats(data, 500, 500 * comm.rank()).raw(), ones.data(), 2000);
    Work work = comm.all_gather(floats(data, 500, 500 * comm.rank()), floats(data, 1000), "ahead");
    work.wait();
    comm.barrier("both are past their waits");
    EXPECT_FALSE(work.done());
    std::vector<float> result(1000);
    gate.open();
    site.stream->to_host(result.data(), data.data(), 4000);
    EXPECT_EQ(result, std::vector<float>(1000, 1.0F));
    EXPECT_TRUE(work.done());
  });
}

// A second stream that waits sees the result, and one that does not wait need not.
TEST(Nccl, ThePresentStreamIsTheOneThatWaits) {
  run_nccl(2, 60s, [](const Site& site) {
    Communicator& comm = site.comm;
    core::MemoryTracker tracker;
    const core::Buffer data(tracker, "test", 4000, site.device);
    const core::DeviceStream second(site.device);
    Gate gate;
    enqueue(site.stream->handle(), [&] { gate.pass(); });
    Work work = comm.broadcast(floats(data, 1000), 0, "x");
    comm.work_on(second);
    work.wait_output();
    core::DeviceEvent event(site.device);
    event.record(second);
    comm.barrier("launched");
    EXPECT_FALSE(event.finished());
    gate.open();
    second.synchronize();
    EXPECT_TRUE(event.finished());
    site.stream->synchronize();
  });
}

TEST(Nccl, TheFlightRecorderTellsWhatTheDeviceHasDone) {
  const ::lockstep::testing::TemporaryDirectory folder;
  const auto path = [&](int rank) { return (folder / fmt::format("rank-{}.bin", rank)).string(); };
  run_nccl(2, 60s, [&](const Site& site) {
    Communicator& comm = site.comm;
    FlightRecorder recorder(path(comm.rank()), comm.rank(), 2, 1);
    comm.record_to(&recorder);
    core::MemoryTracker tracker;
    const core::Buffer data(tracker, "test", 4000, site.device);
    Gate gate;
    comm.broadcast(floats(data, 1000), 0, "first");
    site.stream->synchronize();
    enqueue(site.stream->handle(), [&] { gate.pass(); });
    Work work =
        comm.all_gather(floats(data, 500, 500 * comm.rank()), floats(data, 1000), "block.7");
    comm.barrier("launched");
    std::this_thread::sleep_for(200ms);  // a few looks
    const FlightLog during = read_flight_log(path(comm.rank()));
    const FlightEntry* pending = during.first_pending();
    ASSERT_NE(pending, nullptr);
    EXPECT_EQ(pending->label, "block.7");
    EXPECT_EQ(pending->collective, Collective::kAllGather);
    EXPECT_EQ(pending->bytes, 2000U);
    ASSERT_NE(during.find(pending->sequence - 1), nullptr);
    EXPECT_EQ(during.find(pending->sequence - 1)->label, "first");
    EXPECT_TRUE(during.find(pending->sequence - 1)->completed);
    gate.open();
    work.wait();
    site.stream->synchronize();
    while (!work.done()) {
    }
    comm.progress();
    EXPECT_EQ(read_flight_log(path(comm.rank())).first_pending(), nullptr);
    comm.barrier("end");
    comm.record_to(nullptr);
  });
}

TEST(Nccl, RepeatableSumsAreAskedForInTheEnvironment) {
  const auto set = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value == nullptr ? "" : value);
  };
  for (const char* name : {"NCCL_ALGO", "NCCL_PROTO", "NCCL_NVLS_ENABLE"})
    unsetenv(name);
  run_nccl(1, 60s, [](const Site&) {});
  EXPECT_EQ(set("NCCL_ALGO"), "");
  run_nccl(1, 60s, [](const Site&) {}, {}, {.repeatable = true});
  EXPECT_EQ(set("NCCL_ALGO"), "Ring");
  EXPECT_EQ(set("NCCL_PROTO"), "Simple");
  EXPECT_EQ(set("NCCL_NVLS_ENABLE"), "0");
  setenv("NCCL_ALGO", "Tree", 1);
  expect_error(core::ErrorKind::kConfig, {"NCCL_ALGO=Tree", "NCCL_ALGO=Ring"},
               [] { run_nccl(1, 60s, [](const Site&) {}, {}, {.repeatable = true}); });
  unsetenv("NCCL_ALGO");
}

// Whether or not the machine has NCCL, asking for it is no error.
TEST(Nccl, TheLibraryIsThereOrTheReasonIs) {
  const NcclLibrary& library = load_nccl();
  if (library.api == nullptr) {
    EXPECT_THAT(library.why_absent, ::testing::HasSubstr("libnccl"));
    return;
  }
  EXPECT_GE(library.version, nccl::kOldestVersion);
  nccl::UniqueId id{};
  EXPECT_EQ(library.api->get_unique_id(&id), nccl::kSuccess);
  EXPECT_THAT(nccl_version_text(22809), "2.28.9");
}

}  // namespace
}  // namespace lockstep::comm::testing
