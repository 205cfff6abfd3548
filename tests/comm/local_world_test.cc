#include "comm/local/local_world.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <vector>

#include "tests/comm/reference.h"

namespace lockstep::comm {
namespace {

using core::DType;
using core::TensorView;
using std::chrono_literals::operator""s;

// Far more ranks than cores: nothing may spin its peers out of the machine.
TEST(LocalWorld, SixtyFourRanks) {
  constexpr int kRanks = 64;
  constexpr std::int64_t kShard = 100;
  const LocalWorld world(kRanks, 60s);
  std::atomic<int> right{0};
  world.run([&](Communicator& comm) {
    bool good = true;
    for (std::uint64_t step = 0; step < 5; ++step) {
      auto full = testing::input_of<float>(comm.rank(), kRanks * kShard, step);
      std::vector<float> shard(kShard);
      comm.reduce_scatter(TensorView(full.data(), DType::kF32, {kRanks * kShard}),
                          TensorView(shard.data(), DType::kF32, {kShard}), Output::kOverwrite,
                          "bucket")
          .wait();
      const std::size_t first = static_cast<std::size_t>(comm.rank() * kShard);
      for (std::size_t i = 0; i < kShard; ++i) {
        good &= shard[i] == testing::reference_reduce<float, float>(kRanks, first + i, step,
                                                                    ReduceOp::kSum, nullptr);
      }
      const auto ranks = comm.all_gather_small(comm.rank(), "ranks");
      for (int r = 0; r < kRanks; ++r)
        good &= ranks[static_cast<std::size_t>(r)] == r;
    }
    if (good) ++right;
  });
  EXPECT_EQ(right, kRanks);
}

TEST(LocalWorld, WhatOneRankThrowsEndsAll) {
  const LocalWorld world(3, 60s);
  std::atomic<int> failed{0};
  try {
    world.run([&](Communicator& comm) {
      if (comm.rank() == 2) throw core::Error(core::ErrorKind::kData, "train.bin is truncated");
      try {
        comm.barrier("never complete");
      } catch (const core::Error& error) {
        EXPECT_EQ(error.kind(), core::ErrorKind::kData);
        ++failed;
        throw;
      }
    });
    ADD_FAILURE() << "nothing was thrown";
  } catch (const core::Error& error) {
    EXPECT_NE(std::string(error.what()).find("train.bin is truncated"), std::string::npos);
  }
  EXPECT_EQ(failed, 2);
}

TEST(LocalWorld, ARankThatLeavesIsNamed) {
  const LocalWorld world(2, 60s);
  EXPECT_NO_THROW(world.run([](Communicator& comm) {
    comm.barrier("together");
    if (comm.rank() == 1) return;
    try {
      comm.barrier("alone");
      ADD_FAILURE() << "rank 1 never came";
    } catch (const core::Error& error) {
      EXPECT_EQ(error.kind(), core::ErrorKind::kCommunication);
      EXPECT_NE(std::string(error.what()).find("rank 1"), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("has left"), std::string::npos) << error.what();
    }
  }));
}

}  // namespace
}  // namespace lockstep::comm
