#include "core/upload_ring.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/memory.h"
#include "tests/support/async_device.h"
#include "tests/support/gate.h"

namespace lockstep::core {
namespace {

using lockstep::testing::async_runtime;
using lockstep::testing::Gate;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr std::size_t kPieces = 8;  // as the ring's own
constexpr std::size_t kBytes = 64;

// What the ring has asked of the runtime. Only this thread asks.
struct Calls {
  std::map<void*, std::size_t> pinned;             // alive, bytes
  std::vector<const void*> sources;                // of copies to the device
  std::vector<DeviceEventHandle*> recorded;        // in order
  std::vector<DeviceEventHandle*> waited;          // by the host
  int synchronized = 0;                            // by the host, with a whole stream
  std::vector<std::string> problems;               // what must not be
  std::map<const void*, DeviceEventHandle*> last;  // by piece, behind its newest copy
  std::function<void()> on_wait;                   // before the host waits
};

Calls& calls() {
  static Calls all;
  return all;
}

bool is_finished(DeviceEventHandle* event) {
  bool finished = false;
  async_runtime().finished(event, &finished);
  return finished;
}

// The begin of the piece that holds all of [p, p + bytes), or null.
const void* piece_of(const void* p, std::size_t bytes) {
  const auto at = reinterpret_cast<std::uintptr_t>(p);
  for (const auto& [begin, size] : calls().pinned) {
    const auto from = reinterpret_cast<std::uintptr_t>(begin);
    if (from <= at && at + bytes <= from + size) return begin;
  }
  return nullptr;
}

int allocate_pinned(std::size_t bytes, void** memory) {
  const int code = async_runtime().allocate_pinned(bytes, memory);
  calls().pinned[*memory] = bytes;
  return code;
}

int release_pinned(void* memory) {
  const auto last = calls().last.find(memory);
  if (last != calls().last.end() && !is_finished(last->second))
    calls().problems.emplace_back("a piece was freed before its copy was done");
  calls().pinned.erase(memory);
  calls().last.erase(memory);
  return async_runtime().release_pinned(memory);
}

int copy(void* to, const void* from, std::size_t bytes, CopyKind kind, DeviceStreamHandle* stream) {
  if (kind == CopyKind::kHostToDevice) {
    if (piece_of(from, bytes) == nullptr)
      calls().problems.emplace_back("copied from memory that is not the runtime's pinned");
    calls().sources.push_back(from);
  }
  return async_runtime().copy(to, from, bytes, kind, stream);
}

int record(DeviceEventHandle* event, DeviceStreamHandle* stream) {
  calls().recorded.push_back(event);
  if (calls().recorded.size() == calls().sources.size()) {
    calls().last[piece_of(calls().sources.back(), 1)] = event;
  } else {
    calls().problems.emplace_back("the event of a copy was recorded before it");
  }
  return async_runtime().record(event, stream);
}

int synchronize(DeviceStreamHandle* stream) {
  ++calls().synchronized;
  if (calls().on_wait) calls().on_wait();
  return async_runtime().synchronize(stream);
}

int destroy_event(DeviceEventHandle* event) {
  std::erase_if(calls().last, [&](const auto& piece) { return piece.second == event; });
  return async_runtime().destroy_event(event);
}

int await(DeviceEventHandle* event) {
  calls().waited.push_back(event);
  if (calls().on_wait) calls().on_wait();
  return async_runtime().await(event);
}

const DeviceRuntime& recording_runtime() {
  static const DeviceRuntime runtime = [] {
    DeviceRuntime r = async_runtime();
    r.allocate_pinned = allocate_pinned;
    r.release_pinned = release_pinned;
    r.copy = copy;
    r.synchronize = synchronize;
    r.destroy_event = destroy_event;
    r.record = record;
    r.await = await;
    return r;
  }();
  return runtime;
}

// A ring, a stream that stands still until the gate opens or the host waits, and device memory for
// each upload.
class UploadRingTest : public ::testing::Test {
 protected:
  UploadRingTest() {
    calls() = {};
    calls().on_wait = [this] { gate_.open(); };
    lockstep::testing::enqueue(stream_.handle(), [this] { gate_.pass(); });
  }
  ~UploadRingTest() override {
    stream_.synchronize();
    EXPECT_THAT(calls().problems, IsEmpty());
    calls().on_wait = nullptr;
  }

  // Upload number `number`: every byte has that value, and the source is overwritten at once.
  void upload(std::size_t number, std::size_t bytes = kBytes) {
    std::vector<std::byte> source(bytes, std::byte(number));
    ring_.upload(stream_, place(number), source.data(), bytes);
    std::fill(source.begin(), source.end(), std::byte{0xEE});
  }
  std::byte* place(std::size_t number) {
    return static_cast<std::byte*>(buffer_.data()) + number * kMostBytes;
  }
  void expect_arrived(std::size_t number, std::size_t bytes = kBytes) {
    std::vector<std::byte> found(bytes);
    stream_.to_host(found.data(), place(number), bytes);
    EXPECT_EQ(found, std::vector<std::byte>(bytes, std::byte(number))) << "upload " << number;
  }

  void expect_no_wait() {
    EXPECT_TRUE(calls().waited.empty());
    EXPECT_EQ(calls().synchronized, 0);
  }

  static constexpr std::size_t kUploads = 32;
  static constexpr std::size_t kMostBytes = 1024;

  DeviceRef device_ = open_device(recording_runtime(), 0);
  MemoryTracker memory_;
  Buffer buffer_{memory_, "test", kUploads* kMostBytes, device_};
  Gate gate_;
  DeviceStream stream_{device_};
  UploadRing ring_{device_};
};

TEST_F(UploadRingTest, TheSourceMayChangeBeforeTheStreamHasComeThere) {
  upload(1);
  upload(2, 300);
  expect_no_wait();
  expect_arrived(1);
  expect_arrived(2, 300);
}

TEST_F(UploadRingTest, EachOfTheFirstUploadsHasAPieceOfItsOwnAndTheHostDoesNotWait) {
  for (std::size_t i = 0; i < kPieces; ++i)
    upload(i);
  expect_no_wait();
  std::vector<const void*> sources = calls().sources;
  std::sort(sources.begin(), sources.end());
  EXPECT_EQ(std::unique(sources.begin(), sources.end()) - sources.begin(), kPieces);
  for (std::size_t i = 0; i < kPieces; ++i)
    expect_arrived(i);
}

// The stream stands still until the host waits, so a piece that was filled without waiting, or
// after another event than its own, would be copied with the wrong content.
TEST_F(UploadRingTest, APieceIsFilledAgainOnlyAfterItsCopyIsDone) {
  for (std::size_t i = 0; i < kPieces; ++i)
    upload(i);
  const std::vector<DeviceEventHandle*> recorded = calls().recorded;
  ASSERT_EQ(recorded.size(), kPieces);
  upload(kPieces);
  EXPECT_THAT(calls().waited, ElementsAre(recorded[0]));
  EXPECT_EQ(calls().sources.back(), calls().sources.front());
  EXPECT_EQ(calls().recorded.back(), recorded[0]);  // so that the next one waits for this copy
  upload(kPieces + 1);
  EXPECT_THAT(calls().waited, ElementsAre(recorded[0], recorded[1]));
  for (std::size_t i = 0; i < kPieces + 2; ++i)
    expect_arrived(i);
}

TEST_F(UploadRingTest, APieceGrowsOnlyAfterItsCopyIsDone) {
  for (std::size_t i = 0; i < kPieces; ++i)
    upload(i);
  upload(kPieces, kMostBytes);
  for (std::size_t i = 0; i < kPieces; ++i)
    expect_arrived(i);
  expect_arrived(kPieces, kMostBytes);
  EXPECT_EQ(calls().pinned.size(), kPieces);
}

TEST_F(UploadRingTest, ManyUploadsInARowArriveWhole) {
  gate_.open();
  for (std::size_t i = 0; i < kUploads; ++i)
    upload(i, 1 + i * 31 % kMostBytes);
  for (std::size_t i = 0; i < kUploads; ++i)
    expect_arrived(i, 1 + i * 31 % kMostBytes);
}

TEST_F(UploadRingTest, NothingIsAskedForNoBytes) {
  ring_.upload(stream_, place(0), nullptr, 0);
  EXPECT_TRUE(calls().pinned.empty());
  EXPECT_TRUE(calls().sources.empty());
}

}  // namespace
}  // namespace lockstep::core
