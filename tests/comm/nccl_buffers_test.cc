// Memory that NCCL is told of, over its stand-in: what every backend must do, registered once,
// deregistered before its communicator ends, and what may go wrong with it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <optional>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "comm/make_communicator.h"
#include "tests/comm/expect_error.h"
#include "tests/comm/nccl_ranks.h"

namespace lockstep::comm::testing {
namespace {

using core::DType;
using core::ErrorKind;
using std::chrono_literals::operator""ms;
using std::chrono_literals::operator""s;

using Param = std::tuple<NcclBuffers, int, ConformanceCase>;

std::string name_of_case(const ::testing::TestParamInfo<Param>& info) {
  const auto& [buffers, ranks, conformance] = info.param;
  return conformance.name + std::string(name_of(buffers)) + "World" + std::to_string(ranks);
}

class NcclBuffersConformance : public ::testing::TestWithParam<Param> {};

TEST_P(NcclBuffersConformance, HoldsOnTheDevice) {
  const auto& [buffers, ranks, conformance] = GetParam();
  const int before = early_frees();
  run_nccl(ranks, 60s, conformance.check, {}, {.buffers = buffers});
  EXPECT_EQ(early_frees(), before) << "memory was freed that the device was still to touch";
}

INSTANTIATE_TEST_SUITE_P(
    Cases, NcclBuffersConformance,
    ::testing::Combine(::testing::Values(NcclBuffers::kRegistered, NcclBuffers::kSymmetric),
                       ::testing::Values(1, 3), ::testing::ValuesIn(conformance_cases())),
    name_of_case);

constexpr std::int64_t kCount = 840;
constexpr std::size_t kBytes = kCount * sizeof(float);

// What a step has: parameters that are gathered, and a bucket of gradients that is reduced.
struct Buffers {
  explicit Buffers(const Site& site)
      : comm(site.comm),
        parameters(comm.allocate(kBytes, "parameters", tracker, BufferUse::kCopied)),
        gradients(comm.allocate(kBytes, "gradients", tracker)) {}

  static core::TensorView part(const SharedBuffer& buffer, std::int64_t begin, std::int64_t count) {
    return buffer.view(DType::kF32, {count}, static_cast<std::size_t>(begin) * sizeof(float));
  }
  void step() {
    const std::int64_t shard = kCount / comm.world_size();
    const std::int64_t own = shard * comm.rank();
    comm.reduce_scatter(part(gradients, 0, kCount), part(gradients, own, shard), Output::kOverwrite,
                        "block.7")
        .wait();
    comm.all_gather(part(parameters, own, shard), part(parameters, 0, kCount), "block.7").wait();
  }

  Communicator& comm;
  core::MemoryTracker tracker;
  SharedBuffer parameters;
  SharedBuffer gradients;
};

void take_steps(const Site& site) {
  Buffers buffers(site);
  for (int i = 0; i < 3; ++i)
    buffers.step();
  site.stream->synchronize();
}

TEST(NcclBuffers, PlainOnesAreNoneOfNcclsBusiness) {
  run_nccl(2, 60s, take_steps);
  EXPECT_EQ(count_nccl_calls("rank 0 register"), 0);
}

TEST(NcclBuffers, RegisteredOnesAreRegisteredOnce) {
  run_nccl(2, 60s, take_steps, {}, {.buffers = NcclBuffers::kRegistered});
  for (const char* rank : {"rank 0 ", "rank 1 "}) {
    EXPECT_EQ(count_nccl_calls(rank + std::string("register ")), 2);
    EXPECT_EQ(count_nccl_calls(rank + std::string("register window")), 0);
    EXPECT_EQ(count_nccl_calls(rank + std::string("deregister")), 2);
    EXPECT_EQ(count_nccl_calls(rank + std::string("all_gather by copy engines")), 0);
  }
}

// Parameters are gathered by copy engines; gradients are summed as they are with `registered`.
TEST(NcclBuffers, OnlyWhatIsCopiedLiesInWindows) {
  run_nccl(3, 60s, take_steps, {}, {.buffers = NcclBuffers::kSymmetric});
  for (const char* rank : {"rank 0 ", "rank 2 "}) {
    EXPECT_EQ(count_nccl_calls(rank + std::string("register window 3360")), 1);
    EXPECT_EQ(count_nccl_calls(rank + std::string("register 3360")), 1);
    EXPECT_EQ(count_nccl_calls(rank + std::string("deregister window")), 1);
    EXPECT_EQ(count_nccl_calls(rank + std::string("deregister")), 2);
    EXPECT_EQ(count_nccl_calls(rank + std::string("all_gather by copy engines 280")), 3);
    EXPECT_EQ(count_nccl_calls(rank + std::string("reduce_scatter 280")), 3);
  }
}

// As `lockstep plan` counts it: the bytes asked for, whatever NCCL rounds them up to.
TEST(NcclBuffers, AreCountedByTheBytesAskedFor) {
  for (const NcclBuffers kind : {NcclBuffers::kRegistered, NcclBuffers::kSymmetric}) {
    run_nccl(2, 60s,
             [](const Site& site) {
               core::MemoryTracker tracker;
               {
                 const SharedBuffer a =
                     site.comm.allocate(1000, "parameters", tracker, BufferUse::kCopied);
                 const SharedBuffer b = site.comm.allocate(77, "gradients", tracker);
                 EXPECT_EQ(tracker.regions()["parameters"].current, 1000U);
                 EXPECT_EQ(tracker.current(), 1077U);
                 EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a.data()) % 256, 0U);
                 site.comm.barrier("in use");
               }
               EXPECT_EQ(tracker.current(), 0U);
               EXPECT_EQ(tracker.peak(), 1077U);
             },
             {}, {.buffers = kind});
  }
}

TEST(NcclBuffers, AWindowNeedsTheSameSizeOnAllRanks) {
  run_nccl(2, 60s,
           [](const Site& site) {
             core::MemoryTracker tracker;
             const auto bytes = static_cast<std::size_t>(4096 * (site.comm.rank() + 1));
             const SharedBuffer a = site.comm.allocate(bytes, "test", tracker, BufferUse::kCopied);
             site.comm.barrier("in use");
           },
           {}, {.buffers = NcclBuffers::kSymmetric});
  EXPECT_EQ(count_nccl_calls("rank 0 register window"), 0);
  EXPECT_EQ(count_nccl_calls("rank 0 register 4096"), 1);
  EXPECT_EQ(count_nccl_calls("rank 1 register 8192"), 1);
}

// Whoever frees them last: nothing is registered any more when the communicator ends.
TEST(NcclBuffers, MayOutliveTheirCommunicator) {
  for (const NcclBuffers kind : {NcclBuffers::kRegistered, NcclBuffers::kSymmetric}) {
    core::MemoryTracker tracker;
    std::vector<SharedBuffer> kept(2);
    clear_nccl_state();
    const LocalWorld world(2, 60s);
    world.run(
        [&](Communicator& comm) {
          kept[static_cast<std::size_t>(comm.rank())] =
              comm.allocate(4096, "test", tracker, BufferUse::kCopied);
        },
        [&](std::unique_ptr<Communicator> host) {
          return make_nccl_communicator(std::move(host), async_device(), nccl_stand_in(),
                                        {.buffers = kind});
        });
    EXPECT_EQ(live_nccl_comms(), 0);
    EXPECT_EQ(live_nccl_memory(), 2);
    EXPECT_EQ(count_nccl_calls("rank 1 deregister"), 1);
    kept.clear();
    EXPECT_EQ(live_nccl_memory(), 0);
    EXPECT_EQ(tracker.current(), 0U);
    EXPECT_THAT(nccl_state().misuses, ::testing::IsEmpty());
  }
}

void expect_soon(ErrorKind kind, std::initializer_list<std::string> parts,
                 const std::function<void()>& call) {
  const auto begin = std::chrono::steady_clock::now();
  expect_error(kind, parts, call);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 10s);
}

// A buffer that NCCL fails to register on one rank, while the others go on or wait for it in NCCL.
TEST(NcclBuffers, ARankThatCannotRegisterIsNamedOnAll) {
  for (const NcclBuffers kind : {NcclBuffers::kRegistered, NcclBuffers::kSymmetric}) {
    run_nccl(3, 30s,
             [](const Site& site) {
               core::MemoryTracker tracker;
               expect_soon(
                   ErrorKind::kCommunication,
                   {"rank 1 (host", "could not register parameters (3360 bytes)",
                    "NCCL error 2: unhandled system error (the ", "not "},
                   [&] { site.comm.allocate(kBytes, "parameters", tracker, BufferUse::kCopied); });
               EXPECT_EQ(tracker.current(), 0U);
               expect_soon(ErrorKind::kCommunication, {"rank 1 (host"},
                           [&] { site.comm.barrier("still failed"); });
             },
             {.rank = 1, .register_fails = nccl::kSystemError}, {.buffers = kind});
  }
}

TEST(NcclBuffers, AWindowThatNeverComesEndsAtTheTimeout) {
  run_nccl(
      3, 500ms,
      [](const Site& site) {
        core::MemoryTracker tracker;
        expect_soon(
            ErrorKind::kCommunication,
            {"NCCL did not register parameters (3360 bytes) as a symmetric window within 0.5 s"},
            [&] { site.comm.allocate(kBytes, "parameters", tracker, BufferUse::kCopied); });
        EXPECT_EQ(tracker.current(), 0U);
      },
      {.rank = 2, .window_never_ends = true}, {.buffers = NcclBuffers::kSymmetric});
}

// NCCL says nothing when it does without; whoever asked for it is told, and the group goes on.
TEST(NcclBuffers, ARegistrationThatNcclLeavesOutIsNoSilentMatter) {
  const auto refused = [](const std::string& way_out) {
    return [way_out](const Site& site) {
      core::MemoryTracker tracker;
      expect_soon(ErrorKind::kConfig,
                  {"rank 1: NCCL did not register parameters", "backend.nccl_buffers: " + way_out},
                  [&] { site.comm.allocate(kBytes, "parameters", tracker, BufferUse::kCopied); });
      EXPECT_EQ(tracker.current(), 0U);
      site.comm.barrier("still usable");
    };
  };
  run_nccl(3, 30s, refused("plain"), {.rank = 1, .register_skips = true},
           {.buffers = NcclBuffers::kRegistered});
  run_nccl(3, 30s, refused("registered"), {.rank = 1, .register_skips = true},
           {.buffers = NcclBuffers::kSymmetric});
}

// The device is in a collective, and buffers go on the way out: after the abort, not before.
TEST(NcclBuffers, AnAbortDeregisters) {
  for (const NcclBuffers kind : {NcclBuffers::kRegistered, NcclBuffers::kSymmetric}) {
    const int before = early_frees();
    run_nccl(3, 30s,
             [](const Site& site) {
               expect_soon(ErrorKind::kData, {"rank 1 (host", "train.bin is truncated"}, [&] {
                 Buffers buffers(site);
                 buffers.step();
                 if (site.comm.rank() == 1) {
                   std::this_thread::sleep_for(50ms);
                   site.comm.abort(ErrorKind::kData, "train.bin is truncated");
                 } else {
                   buffers.step();
                 }
                 while (true) {
                   site.comm.progress();
                   std::this_thread::sleep_for(5ms);
                 }
               });
             },
             {}, {.buffers = kind});
    EXPECT_EQ(early_frees(), before) << "memory was freed that the device was still to touch";
    EXPECT_EQ(count_nccl_calls("rank 0 abort"), 1);
  }
}

// Buffers that go without a word while the peers are late: they wait, as freeing memory does.
TEST(NcclBuffers, GoWhenTheDeviceIsDoneWithThem) {
  const int before = early_frees();
  run_nccl(2, 60s,
           [](const Site& site) {
             Buffers buffers(site);
             if (site.comm.rank() == 1) {
               enqueue(site.stream->handle(), [] { std::this_thread::sleep_for(200ms); });
             }
             buffers.step();
           },
           {}, {.buffers = NcclBuffers::kSymmetric});
  EXPECT_EQ(early_frees(), before) << "memory was freed that the device was still to touch";
}

// A library of this version: get_version is a plain function.
template <int kVersion>
nccl::Api library_of() {
  nccl::Api api = nccl_stand_in();
  api.get_version = [](int* version) {
    *version = kVersion;
    return nccl::kSuccess;
  };
  return api;
}

TEST(NcclBuffers, WhatTheLibraryLacksIsRefusedOnAllRanks) {
  const auto expect_refused = [](NcclBuffers buffers, const nccl::Api& api,
                                 std::initializer_list<std::string> parts) {
    expect_error(ErrorKind::kConfig, parts, [&] {
      run_nccl(
          2, 30s, [](const Site&) { ADD_FAILURE() << "connected"; }, {}, {.buffers = buffers}, api);
    });
    EXPECT_EQ(live_nccl_comms(), 0);
  };
  nccl::Api bare = library_of<21806>();
  bare.mem_alloc = nullptr;
  bare.mem_free = nullptr;
  bare.comm_register = nullptr;
  bare.comm_deregister = nullptr;
  bare.comm_window_register = nullptr;
  bare.comm_window_deregister = nullptr;
  run_nccl(2, 60s, take_steps, {}, {}, bare);
  expect_refused(NcclBuffers::kRegistered, bare,
                 {"backend.nccl_buffers registered: NCCL 2.18.6 lacks ncclMemAlloc, which came "
                  "with 2.19"});
  nccl::Api middle = library_of<22606>();
  middle.comm_window_register = nullptr;
  middle.comm_window_deregister = nullptr;
  run_nccl(2, 60s, take_steps, {}, {.buffers = NcclBuffers::kRegistered}, middle);
  EXPECT_EQ(count_nccl_calls("rank 0 register "), 2);
  expect_refused(NcclBuffers::kSymmetric, middle,
                 {"backend.nccl_buffers symmetric: NCCL 2.26.6 lacks ncclCommWindowRegister"});
  nccl::Api young = library_of<22705>();
  expect_refused(NcclBuffers::kSymmetric, young, {"NCCL 2.27.5 lacks all-gathers by copy engines"});
}

TEST(NcclBuffers, AreRefusedWhereRanksDoNotUseNccl) {
  const auto refused = [](core::DeviceRef device, const std::string& where) {
    expect_error(ErrorKind::kConfig, {"backend.nccl_buffers is registered", where}, [&] {
      make_communicator("auto", nullptr, 1s, device, {.buffers = NcclBuffers::kRegistered});
    });
  };
  refused({}, "a run on the CPU");
  refused(async_device(), "a run of 1 rank over self");
  make_communicator("auto", nullptr, 1s, async_device());
}

TEST(NcclBuffers, TheEnvironmentMayNotForbidCopyEngines) {
  setenv("NCCL_CTA_POLICY", "0", 1);
  expect_error(ErrorKind::kConfig, {"NCCL_CTA_POLICY=0", "NCCL_CTA_POLICY=2"}, [] {
    run_nccl(1, 60s, [](const Site&) {}, {}, {.buffers = NcclBuffers::kSymmetric});
  });
  run_nccl(1, 60s, [](const Site&) {}, {}, {.buffers = NcclBuffers::kRegistered});
  unsetenv("NCCL_CTA_POLICY");
}

// What an abort does not end would hold up whoever waits for the device, for ever.
TEST(NcclLastResort, IsTakenWhenAnAbortDoesNotFreeTheDevice) {
  std::atomic<int> taken{0};
  std::string told;
  NcclOptions options{.buffers = NcclBuffers::kSymmetric};
  options.patience = 300ms;
  options.last_resort = [&](const std::string& cause) {  // of rank 0, whose device alone hangs
    told = cause;
    ++taken;
    let_deaf_go();
  };
  run_nccl(
      2, 30s,
      [](const Site& site) {
        expect_soon(ErrorKind::kData, {"rank 1 (host", "train.bin is truncated"}, [&] {
          Buffers buffers(site);
          if (site.comm.rank() == 0) {
            buffers.step();
          } else {
            std::this_thread::sleep_for(50ms);
            site.comm.abort(ErrorKind::kData, "train.bin is truncated");
          }
          site.stream->synchronize();
          site.comm.barrier("nobody gets here");
        });
      },
      {.rank = 0, .deaf_to_abort = true}, options);
  EXPECT_EQ(taken, 1);
  EXPECT_THAT(told,
              ::testing::HasSubstr("train.bin is truncated. cuda:0 has been in a collective"));
}

TEST(NcclLastResort, IsLeftAloneWhenAnAbortDoes) {
  NcclOptions options;
  options.patience = 300ms;
  options.last_resort = [](const std::string& cause) { ADD_FAILURE() << cause; };
  run_nccl(
      2, 30s,
      [](const Site& site) {
        expect_soon(ErrorKind::kData, {"rank 1 (host", "train.bin is truncated"}, [&] {
          Buffers buffers(site);
          if (site.comm.rank() == 0) {
            buffers.step();
          } else {
            std::this_thread::sleep_for(50ms);
            site.comm.abort(ErrorKind::kData, "train.bin is truncated");
          }
          site.stream->synchronize();
          std::this_thread::sleep_for(500ms);
          site.comm.barrier("nobody gets here");
        });
      },
      {}, options);
  run_nccl(2, 60s, take_steps, {}, options);
}

}  // namespace
}  // namespace lockstep::comm::testing
