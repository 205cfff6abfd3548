#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

#include "core/cuda/kernel.cuh"
#include "core/error.h"
#include "core/memory.h"

// The stand-in finds what a GPU leaves undefined, and its warp operations are those of PTX.
namespace lockstep::core::cuda {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class StandInTest : public ::testing::Test {
 protected:
  StandInTest()
      : device_(open_device(stand_in_runtime(), 0)),
        stream_(device_),
        buffer_(memory_, "test", 4096, device_) {}
  ~StandInTest() override { stand_in_settings() = {}; }

  template <typename... P, typename... A>
  std::string failure_of(void (*kernel)(P...), unsigned threads, const A&... arguments) {
    try {
      launch("tried", kernel, Grid{1, threads, 0}, stream_, arguments...);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  }

  float* floats() { return static_cast<float*>(buffer_.data()); }

  MemoryTracker memory_;
  DeviceRef device_;
  DeviceStream stream_;
  Buffer buffer_;
};

__global__ void leave_before_barrier(unsigned leaver) {
  if (threadIdx.x == leaver) return;
  sync_threads();
}

__global__ void wait_at_two_barriers() {
  if (threadIdx.x < 32) {
    sync_threads();
  } else {
    sync_threads();
  }
}

__global__ void part_of_a_warp() {
  if (threadIdx.x < 7) shuffle(1.0F, 0);
}

__global__ void different_operations() {
  if (threadIdx.x < 7)
    shuffle(1.0F, 0);
  else
    shuffle_xor(1.0F, 1);
}

TEST_F(StandInTest, DivergenceIsNamed) {
  EXPECT_THAT(failure_of(leave_before_barrier, 64, 40U),
              AllOf(HasSubstr("kernel tried: block 0: thread 0 waits at the barrier"),
                    HasSubstr("thread 40 has ended")));
  EXPECT_THAT(failure_of(wait_at_two_barriers, 64),
              HasSubstr("but thread 32 waits at the barrier"));
  EXPECT_THAT(failure_of(part_of_a_warp, 32), HasSubstr("thread 7 has ended"));
  EXPECT_THAT(failure_of(different_operations, 32), HasSubstr("shuffle_xor"));
  EXPECT_THAT(failure_of(part_of_a_warp, 33), HasSubstr("a block of 33 threads"));
  // And it goes on afterwards.
  EXPECT_EQ(failure_of(leave_before_barrier, 64, 99U), "");
}

// The address sanitizer would end the process first.
#if !defined(__SANITIZE_ADDRESS__)
__global__ void write_at(float* p, int index) {
  if (threadIdx.x == 0) p[index] = 1.0F;
}

TEST_F(StandInTest, WritesOutsideAnAllocationAreFound) {
  EXPECT_EQ(failure_of(write_at, 32, floats(), 1023), "");
  EXPECT_THAT(failure_of(write_at, 32, floats(), 1024),
              HasSubstr("kernel tried: wrote outside an allocation of 4096 bytes"));
  EXPECT_THAT(failure_of(write_at, 32, floats(), -1), HasSubstr("wrote outside an allocation"));
}
#endif

TEST_F(StandInTest, OperandsMustLieInDeviceMemory) {
  float on_host = 0.0F;
  EXPECT_THROW(check_device_range(&on_host, 4), Error);
  EXPECT_THROW(check_device_range(floats(), 4097), Error);
  EXPECT_NO_THROW(check_device_range(floats() + 1023, 4));
}

__global__ void read_unwritten(float* out) {
  LOCKSTEP_SHARED(float, room, 64);
  out[threadIdx.x] = room[threadIdx.x];
}

// Every thread reads what its neighbour writes.
__global__ void neighbours(float* out, bool with_barrier) {
  LOCKSTEP_SHARED(float, room, 64);
  room[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (with_barrier) sync_threads();
  out[threadIdx.x] = room[(threadIdx.x + 1) % 64];
}

TEST_F(StandInTest, UnwrittenSharedMemoryIsNaNAndAMissingBarrierShowsInReverse) {
  launch("read_unwritten", read_unwritten, Grid{1, 64, 0}, stream_, floats());
  EXPECT_TRUE(std::isnan(floats()[5]));
  const auto run = [&](bool with_barrier, bool reverse) {
    stand_in_settings().reverse = reverse;
    launch("neighbours", neighbours, Grid{1, 64, 0}, stream_, floats(), with_barrier);
    std::vector<std::uint32_t> bits;
    for (int i = 0; i < 64; ++i)
      bits.push_back(std::bit_cast<std::uint32_t>(floats()[i]));
    return bits;
  };
  EXPECT_EQ(run(true, false), run(true, true));
  EXPECT_NE(run(false, false), run(false, true));
}

__global__ void sums_and_ballot(float* out) {
  LOCKSTEP_SHARED(float, room, 32);
  const auto mine = static_cast<float>(threadIdx.x);
  const float warp = combine_lanes(mine, AddOf{});
  const float eights = combine_lanes(mine, AddOf{}, 8);
  const float block = combine_block(mine, AddOf{}, room);
  const float greatest = combine_block(mine, MaximumOf{}, room);
  const unsigned odd = ballot(threadIdx.x % 2 == 1);
  if (threadIdx.x != 40) return;
  out[0] = warp;
  out[1] = eights;
  out[2] = block;
  out[3] = greatest;
  out[4] = odd == 0xAAAAAAAAU ? 1.0F : 0.0F;
}

TEST_F(StandInTest, WarpAndBlockOperations) {
  launch("sums", sums_and_ballot, Grid{1, 96, 0}, stream_, floats());
  EXPECT_EQ(floats()[0], 32 * 47.5F);
  EXPECT_EQ(floats()[1], 8 * 43.5F);
  EXPECT_EQ(floats()[2], 96 * 47.5F);
  EXPECT_EQ(floats()[3], 95.0F);
  EXPECT_EQ(floats()[4], 1.0F);
}

__global__ void copy_late(const float* in, float* out) {
  LOCKSTEP_SHARED(float, room, 128);
  copy_async(room + threadIdx.x * 4, in + threadIdx.x * 4);
  copy_async_commit();
  if (threadIdx.x == 0) out[0] = room[0];
  copy_async_wait<0>();
  sync_threads();
  out[1 + threadIdx.x] = room[threadIdx.x * 4 % 128 + 3];
}

TEST_F(StandInTest, AnAsynchronousCopyIsThereOnlyOnceItIsWaitedFor) {
  for (int i = 0; i < 128; ++i)
    floats()[i] = static_cast<float>(i);
  launch("copy_late", copy_late, Grid{1, 32, 0}, stream_, floats(), floats() + 512);
  EXPECT_TRUE(std::isnan(floats()[512]));
  EXPECT_EQ(floats()[513 + 7], 31.0F);
}

__global__ void copy_some(const float* in, float* out, int present) {
  LOCKSTEP_SHARED(float, room, 128);
  const int thread = static_cast<int>(threadIdx.x);
  copy_async_or_zero(room + thread * 4, in + thread * 4, thread < present);
  copy_async_commit();
  copy_async_wait<0>();
  sync_threads();
  for (int i = 0; i < 4; ++i)
    out[thread * 4 + i] = room[thread * 4 + i];
}

TEST_F(StandInTest, AnAsynchronousCopyOfWhatIsAbsentGivesZeros) {
  for (int i = 0; i < 128; ++i)
    floats()[i] = static_cast<float>(i + 1);
  launch("copy_some", copy_some, Grid{1, 32, 0}, stream_, floats(), floats() + 512, 5);
  for (int i = 0; i < 128; ++i)
    EXPECT_EQ(floats()[512 + i], i < 20 ? static_cast<float>(i + 1) : 0.0F) << i;
}

// out[16, 8] = a[16, 16] b[16, 8] from row-major matrices in shared memory, the way a kernel does
// it.
template <typename T>
__global__ void product(const float* a, const float* b, float* out) {
  LOCKSTEP_SHARED(T, left, 16 * 16);
  LOCKSTEP_SHARED(T, right, 16 * 16);
  const int lane = lane_of_thread();
  for (int i = lane; i < 256; i += kWarp) {
    left[i] = from_float<T>(a[i]);
    right[i] = from_float<T>(i % 16 < 8 ? b[i / 16 * 8 + i % 16] : 0.0F);
  }
  sync_warp();
  unsigned a_registers[4];
  unsigned b_registers[4];
  load_matrices(a_registers, left + lane % 16 * 16 + lane / 16 * 8);
  load_matrices_transposed(b_registers, right + lane % 16 * 16 + lane / 16 * 8);
  float d[4] = {};
  const unsigned first[2] = {b_registers[0], b_registers[1]};
  multiply_add(d, a_registers, first, T{});
  for (int i = 0; i < 4; ++i)
    out[(lane / 4 + (i < 2 ? 0 : 8)) * 8 + lane % 4 * 2 + i % 2] = d[i];
}

TEST_F(StandInTest, MatrixFragmentsMultiply) {
  float* a = floats();
  float* b = floats() + 256;
  float* out = floats() + 512;
  for (int i = 0; i < 256; ++i)
    a[i] = static_cast<float>(i * 37 % 23 - 11);
  for (int i = 0; i < 128; ++i)
    b[i] = static_cast<float>(i * 29 % 19 - 9);
  for (const bool half : {false, true}) {
    half ? launch("product", product<F16>, Grid{1, 32, 0}, stream_, a, b, out)
         : launch("product", product<BF16>, Grid{1, 32, 0}, stream_, a, b, out);
    for (int r = 0; r < 16; ++r)
      for (int c = 0; c < 8; ++c) {
        float expected = 0.0F;
        for (int k = 0; k < 16; ++k)
          expected += a[r * 16 + k] * b[k * 8 + c];
        ASSERT_EQ(out[r * 8 + c], expected) << r << ", " << c;
      }
  }
}

}  // namespace
}  // namespace lockstep::core::cuda
