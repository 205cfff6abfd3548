#include "comm/device/device_works.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "core/cuda/stand_in/machine.h"

namespace lockstep::comm {
namespace {

// Counts the waits that streams of the stand-in are given.
class DeviceWorksTest : public ::testing::Test {
 protected:
  DeviceWorksTest() { core::cuda::stand_in_settings().record = &calls_; }
  ~DeviceWorksTest() override { core::cuda::stand_in_settings().record = nullptr; }

  // How many while f() runs.
  template <typename F>
  std::ptrdiff_t waits_in(F&& f) {
    calls_.clear();
    f();
    return std::count(calls_.begin(), calls_.end(), "wait");
  }
  void wait(std::uint64_t id, const core::DeviceStream& present) {
    works_.wait_output(id, &present, Deadline::max());
    works_.wait_input(id, &present, Deadline::max());
  }

  core::DeviceRef device_ = core::open_device(core::cuda::stand_in_runtime(), 0);
  core::DeviceStream present_{device_};
  core::DeviceStream source_{device_};
  DeviceWorks works_{device_};
  std::vector<std::string> calls_;
};

TEST_F(DeviceWorksTest, AStreamIsHeldBackOnceByAPoint) {
  const std::uint64_t id = works_.add(source_, 0, nullptr);
  EXPECT_EQ(waits_in([&] { wait(id, present_); }), 1);
  EXPECT_EQ(waits_in([&] { wait(id, present_); }), 0);
}

TEST_F(DeviceWorksTest, ALaterPointOfAStreamServesForTheEarlierOnes) {
  const std::uint64_t first = works_.add(source_, 0, nullptr);
  const std::uint64_t second = works_.add(source_, 0, nullptr);
  EXPECT_EQ(waits_in([&] { wait(second, present_); }), 1);
  EXPECT_EQ(waits_in([&] { wait(first, present_); }), 0);
  const std::uint64_t third = works_.add(source_, 0, nullptr);
  EXPECT_EQ(waits_in([&] { wait(third, present_); }), 1);
}

TEST_F(DeviceWorksTest, OtherStreamsWaitForThemselves) {
  const core::DeviceStream other(device_);
  const std::uint64_t id = works_.add(source_, 0, nullptr);
  const std::uint64_t elsewhere = works_.add(other, 0, nullptr);
  EXPECT_EQ(waits_in([&] { wait(elsewhere, present_); }), 1);
  EXPECT_EQ(waits_in([&] { wait(id, present_); }), 1) << "the later point is of another stream";
  EXPECT_EQ(waits_in([&] { wait(id, other); }), 1);
  EXPECT_EQ(waits_in([&] { wait(id, source_); }), 0) << "it is behind its own work anyway";
}

}  // namespace
}  // namespace lockstep::comm
