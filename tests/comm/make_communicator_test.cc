// Which communicator a device gets, over the stand-ins for a device and for NCCL.
#include "comm/make_communicator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "tests/comm/expect_error.h"
#include "tests/comm/nccl_ranks.h"

namespace lockstep::comm::testing {
namespace {

using core::DType;
using std::chrono_literals::operator""s;

const NcclLibrary& stand_in_library() {
  static const NcclLibrary library{&nccl_stand_in(), 22809, "stand-in", ""};
  return library;
}

const NcclLibrary& unwanted_library() {
  ADD_FAILURE() << "NCCL was looked for";
  return stand_in_library();
}

// There, but not for the thread that has set this.
thread_local bool library_is_absent = false;
const NcclLibrary& library_of_some() {
  static const NcclLibrary absent{nullptr, 0, "", "libnccl.so.2 cannot be loaded"};
  return library_is_absent ? absent : stand_in_library();
}

// The name of what the ranks of a device get, after they have gathered on it.
std::string made_of(int ranks, std::string_view backend, NcclSource library) {
  clear_nccl_state();
  const LocalWorld world(ranks, 60s);
  std::vector<std::string> names(static_cast<std::size_t>(ranks));
  world.run(
      [&](Communicator& comm) {
        names[static_cast<std::size_t>(comm.rank())] = comm.backend();
        const core::DeviceStream stream(async_device());
        comm.work_on(stream);
        core::MemoryTracker memory;
        const core::Buffer buffer(memory, "test", sizeof(float) * 16, async_device());
        const core::TensorView all = buffer.view(DType::kF32, {ranks});
        const core::TensorView own = all.slice_cols(comm.rank(), comm.rank() + 1);
        const auto mine = static_cast<float>(comm.rank() + 1);
        stream.to_device(own.raw(), &mine, sizeof(mine));
        comm.all_gather(own, all, "ranks").wait();
        std::vector<float> found(static_cast<std::size_t>(ranks));
        stream.to_host(found.data(), all.raw(), all.bytes());
        for (std::size_t r = 0; r < found.size(); ++r)
          EXPECT_EQ(found[r], static_cast<float>(r + 1));
        comm.barrier("end");
      },
      [&](std::unique_ptr<Communicator> host) {
        return make_device_communicator(std::move(host), backend, async_device(), {}, library);
      });
  for (const std::string& name : names)
    EXPECT_EQ(name, names[0]);
  return names[0];
}

TEST(MakeDeviceCommunicator, AutoIsNcclWhereThereAreSeveralRanks) {
  for (const int ranks : {2, 3}) {
    EXPECT_EQ(made_of(ranks, "auto", stand_in_library), "nccl");
    EXPECT_FALSE(nccl_state().calls.empty());
  }
}

TEST(MakeDeviceCommunicator, AutoNeedsNoNcclForOneRank) {
  EXPECT_EQ(made_of(1, "auto", unwanted_library), "local");  // as the host's is called
  EXPECT_TRUE(nccl_state().calls.empty());
}

TEST(MakeDeviceCommunicator, WhatIsNamedIsTaken) {
  EXPECT_EQ(made_of(1, "nccl", stand_in_library), "nccl");
  EXPECT_EQ(made_of(2, "nccl", stand_in_library), "nccl");
  EXPECT_EQ(made_of(2, "mpi", unwanted_library), "local");
  EXPECT_TRUE(nccl_state().calls.empty());
}

// Every rank says it, and of which rank.
TEST(MakeDeviceCommunicator, ARankWithoutTheLibraryEndsAll) {
  clear_nccl_state();
  const LocalWorld world(3, 60s);
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < world.size(); ++rank) {
    ranks.emplace_back([&world, rank] {
      library_is_absent = rank == 1;
      expect_error(core::ErrorKind::kConfig,
                   {"rank 1", "libnccl.so.2 cannot be loaded", "backend.comm: mpi"}, [&] {
                     make_device_communicator(world.join(rank), "auto", async_device(), {},
                                              library_of_some);
                   });
    });
  }
  for (std::thread& rank : ranks)
    rank.join();
  EXPECT_TRUE(nccl_state().calls.empty());
}

}  // namespace
}  // namespace lockstep::comm::testing
