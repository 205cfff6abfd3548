#include "core/memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/error.h"

namespace lockstep::core {
namespace {

TEST(MemoryTracker, CountsCurrentAndPeak) {
  MemoryTracker tracker;
  tracker.add("parameters", 100);
  tracker.add("activations", 50);
  tracker.remove("activations", 50);
  tracker.add("optimizer", 30);
  EXPECT_EQ(tracker.current(), 130U);
  EXPECT_EQ(tracker.peak(), 150U);  // of the sum at one time, not the sum of the peaks
  const auto regions = tracker.regions();
  EXPECT_EQ(regions.at("activations").current, 0U);
  EXPECT_EQ(regions.at("activations").peak, 50U);
}

TEST(MemoryTracker, IsThreadSafe) {
  MemoryTracker tracker;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 1000; ++i) {
        tracker.add("workspace", 3);
        tracker.remove("workspace", 2);
      }
    });
  }
  for (std::thread& thread : threads)
    thread.join();
  EXPECT_EQ(tracker.current(), 4000U);
}

class BufferSize : public testing::TestWithParam<std::size_t> {};

TEST_P(BufferSize, IsZeroedAlignedCountedAndReturned) {
  MemoryTracker tracker;
  const std::size_t bytes = GetParam();
  {
    const Buffer buffer(tracker, "test", bytes);
    EXPECT_EQ(buffer.bytes(), bytes);
    EXPECT_EQ(tracker.current(), bytes);
    const auto address = reinterpret_cast<std::uintptr_t>(buffer.data());
    EXPECT_EQ(address % (bytes >= (std::size_t{4} << 20) ? std::size_t{2} << 20 : 64), 0U);
    auto* data = static_cast<unsigned char*>(buffer.data());
    EXPECT_TRUE(std::all_of(data, data + bytes, [](unsigned char c) { return c == 0; }));
    std::fill(data, data + bytes, static_cast<unsigned char>(1));
  }
  EXPECT_EQ(tracker.current(), 0U);
  EXPECT_EQ(tracker.peak(), bytes);
}

INSTANTIATE_TEST_SUITE_P(Sizes, BufferSize,
                         testing::Values(1, 4096, 100001, (4 << 20) - 1, 4 << 20, (5 << 20) + 3));

TEST(Buffer, MovesOwnership) {
  MemoryTracker tracker;
  Buffer a(tracker, "test", 100);
  void* const data = a.data();
  Buffer b = std::move(a);
  EXPECT_EQ(b.data(), data);
  b = Buffer(tracker, "other", 10);
  EXPECT_EQ(tracker.current(), 10U);
  b = {};
  EXPECT_TRUE(b.empty());
  EXPECT_EQ(tracker.current(), 0U);
}

TEST(Buffer, ViewsAreCheckedAgainstTheSize) {
  MemoryTracker tracker;
  const Buffer buffer(tracker, "test", 64);
  const TensorView view = buffer.view(DType::kF32, {2, 4}, 32);
  EXPECT_EQ(view.raw(), static_cast<std::byte*>(buffer.data()) + 32);
  EXPECT_THROW(buffer.view(DType::kF32, {2, 4}, 36), Error);
}

TEST(Buffer, SaysWhatCouldNotBeAllocated) {
  MemoryTracker tracker;
  try {
    const Buffer buffer(tracker, "optimizer", std::size_t{1} << 60);
    FAIL() << "2^60 bytes were allocated";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kOutOfMemory);
    EXPECT_NE(std::string(e.what()).find("optimizer"), std::string::npos);
  }
  EXPECT_EQ(tracker.current(), 0U);
}

TEST(MemoryTracker, HoldsToItsLimit) {
  MemoryTracker tracker;
  tracker.set_limit(100);
  tracker.add("parameters", 60);
  EXPECT_THROW(tracker.add("gradients", 41), Error);
  EXPECT_EQ(tracker.current(), 60U);
  tracker.add("gradients", 40);
  EXPECT_EQ(tracker.peak(), 100U);
}

TEST(MappableBytes, IsAllOrWhatTheSystemAllows) {
  EXPECT_EQ(mappable_bytes(0), 0U);
  EXPECT_EQ(mappable_bytes(1 << 20), std::size_t{1} << 20);
  EXPECT_LT(mappable_bytes(std::size_t{1} << 60), std::size_t{1} << 60);
}

}  // namespace
}  // namespace lockstep::core
