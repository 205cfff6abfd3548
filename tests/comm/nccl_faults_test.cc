// What goes wrong over NCCL: on every rank, soon, the rank and the collective; no hang, no leak.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "tests/comm/expect_error.h"
#include "tests/comm/nccl_ranks.h"

namespace lockstep::comm::testing {
namespace {

using core::DType;
using core::ErrorKind;
using std::chrono_literals::operator""ms;
using std::chrono_literals::operator""s;

struct Floats {
  explicit Floats(const Site& site) : data(tracker, "test", 4 * 840 * sizeof(float), site.device) {}
  core::TensorView view(std::int64_t count, std::int64_t begin = 0) const {
    return data.view(DType::kF32, {count}, static_cast<std::size_t>(begin) * sizeof(float));
  }
  core::MemoryTracker tracker;
  core::Buffer data;
};

// Collectives as a step has them, the device waited for after each round, until one throws.
void train_for_ever(const Site& site, const Floats& floats) {
  Communicator& comm = site.comm;
  const std::int64_t shard = 840 / comm.world_size();
  const std::int64_t own = shard * comm.rank();
  while (true) {
    comm.reduce_scatter(floats.view(840), floats.view(shard, own), Output::kOverwrite, "block.7")
        .wait();
    comm.all_gather(floats.view(shard, own), floats.view(840), "block.7").wait();
    comm.all_to_all(floats.view(840), floats.view(840, 840), "experts").wait();
    site.stream->synchronize();
  }
}

void expect_soon(ErrorKind kind, std::initializer_list<std::string> parts,
                 const std::function<void()>& call) {
  const auto begin = std::chrono::steady_clock::now();
  expect_error(kind, parts, call);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 10s);
}

TEST(NcclFaults, AnAsynchronousErrorNamesRankAndCollective) {
  run_nccl(3, 30s,
           [](const Site& site) {
             const Floats floats(site);
             expect_soon(ErrorKind::kCommunication,
                         {"rank 2 (host", "NCCL error 6: remote process exited",
                          "the connection was closed by a peer) in ", "(block.7)"},
                         [&] { train_for_ever(site, floats); });
             expect_soon(ErrorKind::kCommunication, {"rank 2 (host"},
                         [&] { site.comm.barrier("still failed"); });
           },
           {.rank = 2, .async_error_after = 7});
}

// The same while no rank makes a call: the host has launched and waits for its stream.
TEST(NcclFaults, AnAsynchronousErrorFreesWaitingStreams) {
  run_nccl(2, 30s,
           [](const Site& site) {
             const Floats floats(site);
             expect_soon(
                 ErrorKind::kCommunication,
                 {"rank 1 (host", "remote process exited", "in broadcast #", "(block.7)"}, [&] {
                   // Its device comes to it when the hosts have long handed it over, and wait.
                   enqueue(site.stream->handle(), [] { std::this_thread::sleep_for(100ms); });
                   site.comm.broadcast(floats.view(840), 0, "block.7").wait();
                   site.stream->synchronize();
                   site.comm.barrier("nobody gets here");
                 });
           },
           {.rank = 1, .async_error_after = 0});
}

TEST(NcclFaults, AnErrorInTheMiddleOfAGroupEndsTheGroup) {
  run_nccl(3, 30s,
           [](const Site& site) {
             const Floats floats(site);
             expect_soon(ErrorKind::kCommunication,
                         {"rank 1 (host", "unhandled system error", "no socket to a peer",
                          "in all_to_all #", "(experts)"},
                         [&] { train_for_ever(site, floats); });
             EXPECT_EQ(open_nccl_groups(), 0);
           },
           {.rank = 1, .failing_send = 1});
}

// Another thread aborts again and again while groups are made.
TEST(NcclFaults, AnAbortMayComeAtAnyTime) {
  for (int round = 0; round < 20; ++round) {
    run_nccl(2, 30s, [round](const Site& site) {
      const Floats floats(site);
      std::thread aborter;
      if (site.comm.rank() == 1) {
        aborter = std::thread([&, round] {
          std::this_thread::sleep_for(std::chrono::microseconds(500 * round));
          site.comm.abort(ErrorKind::kData, "train.bin is truncated");
        });
      }
      expect_soon(ErrorKind::kData, {"rank 1 (host", "failed: train.bin is truncated"},
                  [&] { train_for_ever(site, floats); });
      if (aborter.joinable()) aborter.join();
    });
  }
}

// Hosts have entered, devices hang: they are freed when a rank gives up for a reason of its own.
TEST(NcclFaults, AnAbortFreesWaitingStreams) {
  run_nccl(3, 30s, [](const Site& site) {
    const Floats floats(site);
    site.comm.barrier("together");
    expect_soon(ErrorKind::kData, {"rank 1 (host", "train.bin is truncated"}, [&] {
      if (site.comm.rank() == 1) {
        std::this_thread::sleep_for(100ms);
        site.comm.abort(ErrorKind::kData, "train.bin is truncated");
      } else {
        site.comm.broadcast(floats.view(840), 0, "block.7").wait();
        site.stream->synchronize();
      }
      site.comm.barrier("nobody gets here");
    });
  });
}

// Its host runs ahead of its device, which hangs in something else.
TEST(NcclFaults, ADeviceThatDoesNotComeIsNamed) {
  std::atomic<int> failed{0};
  run_nccl(3, 500ms, [&](const Site& site) {
    const Floats floats(site);
    std::mutex mutex;
    std::condition_variable changed;
    bool open = false;
    if (site.comm.rank() == 1) {
      enqueue(site.stream->handle(), [&] {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return open; });
      });
    }
    expect_soon(
        ErrorKind::kCommunication,
        {"rank 1 (host", "has entered broadcast #", "(block.7), but its device has not come to it"},
        [&] {
          site.comm.broadcast(floats.view(840), 0, "block.7").wait();
          if (site.comm.rank() != 1) site.stream->synchronize();
          while (true) {
            site.comm.progress();
            std::this_thread::sleep_for(5ms);
          }
        });
    ++failed;
    while (failed < 3)
      std::this_thread::sleep_for(5ms);
    {
      const std::lock_guard lock(mutex);
      open = true;
      changed.notify_all();
    }
    site.stream->synchronize();  // before what it waits for goes
  });
}

TEST(NcclFaults, ARankThatLeftIsNamed) {
  run_nccl(3, 500ms, [](const Site& site) {
    const Floats floats(site);
    if (site.comm.rank() == 1) return;
    expect_soon(ErrorKind::kCommunication,
                {"rank 1 (host", "has left, but has not entered broadcast #", "(block.7)"}, [&] {
                  site.comm.broadcast(floats.view(840), 0, "block.7").wait();
                  site.stream->synchronize();
                  site.comm.barrier("nobody gets here");
                });
  });
}

TEST(NcclFaults, ARankThatCannotConnectIsNamed) {
  const auto begin = std::chrono::steady_clock::now();
  expect_error(ErrorKind::kCommunication,
               {"rank 1 (host", "NCCL error 5: invalid usage", "Duplicate GPU detected"}, [] {
                 run_nccl(3, 30s, [](const Site&) { ADD_FAILURE() << "connected"; },
                          {.rank = 1, .init_fails = nccl::kInvalidUsage});
               });
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 10s);
  EXPECT_EQ(live_nccl_comms(), 0);
}

TEST(NcclFaults, ConnectingEndsAtTheTimeout) {
  expect_error(ErrorKind::kCommunication, {"NCCL did not connect the ranks within 0.3 s"}, [] {
    run_nccl(3, 300ms, [](const Site&) { ADD_FAILURE() << "connected"; },
             {.rank = 1, .init_never_ends = true});
  });
  EXPECT_EQ(live_nccl_comms(), 0);
}

}  // namespace
}  // namespace lockstep::comm::testing
