#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <barrier>
#include <chrono>
#include <functional>
#include <memory>
#include <utility>

#include "comm/local/local_world.h"
#include "comm/nccl/nccl_communicator.h"
#include "tests/comm/conformance.h"
#include "tests/comm/nccl_stand_in.h"
#include "tests/support/async_device.h"

namespace lockstep::comm::testing {

using lockstep::testing::async_device;
using lockstep::testing::early_frees;
using lockstep::testing::enqueue;
using lockstep::testing::live_events;
using lockstep::testing::live_streams;

// One group of ranks over the stand-in for NCCL, each with a stream of its own; nothing of it may
// be left afterwards.
inline void run_nccl(int ranks, std::chrono::milliseconds timeout,
                     const std::function<void(const Site&)>& body, const NcclFaults& faults = {},
                     const NcclOptions& options = {}, const nccl::Api& api = nccl_stand_in()) {
  clear_nccl_state(faults);
  const LocalWorld world(ranks, timeout);
  // No rank fails the group while another still connects: that is a case of its own.
  std::barrier connected(ranks);
  world.run(
      [&](Communicator& comm) {
        connected.arrive_and_wait();
        const core::DeviceStream stream(async_device());
        comm.work_on(stream);
        body({.comm = comm,
              .device = async_device(),
              .stream = &stream,
              .exact = false,
              .alike = options.buffers != NcclBuffers::kPlain,
              .entered = kNcclEntered});
      },
      [&](std::unique_ptr<Communicator> host) {
        return make_nccl_communicator(std::move(host), async_device(), api, options);
      });
  EXPECT_EQ(live_nccl_comms(), 0);
  EXPECT_EQ(open_nccl_groups(), 0);
  EXPECT_EQ(live_nccl_memory(), 0);
  EXPECT_THAT(nccl_state().misuses, ::testing::IsEmpty());
  EXPECT_EQ(live_streams(), 0);
  EXPECT_EQ(live_events(), 0);
}

}  // namespace lockstep::comm::testing
