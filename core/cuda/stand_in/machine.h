#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <span>
#include <string>
#include <vector>

#include "core/device_runtime.h"
#include "core/dtype.h"

// A device over host memory that executes kernels thread by thread, so that their index arithmetic,
// use of shared memory, barriers and warp operations are tested where there is no GPU. The threads
// of a block are fibers of the calling thread; blocks run one after another. What a GPU leaves
// undefined is an error that names kernel, block and thread:
//
// - a barrier or a warp operation that some threads of the block (warp) reach and others do not;
// - memory before or behind an allocation overwritten (found after the launch);
// - host memory given for device memory, or the reverse, to a copy or as an operand.
//
// Shared memory and fresh device memory hold 0xFF bytes, a NaN in every floating type, so that
// reading what was never written shows. Under the address sanitizer accesses past an array of
// shared memory are found too. A missing barrier shows when results differ between the two orders
// in which threads may run (StandInSettings::reverse).
namespace lockstep::core::cuda {

const DeviceRuntime& stand_in_runtime();

// An argument of a launch that is a pointer, and whether the kernel may write through it. Null for
// arguments of other types.
struct LaunchPointer {
  const void* address = nullptr;
  bool writes = false;
};

// Told of a launch, on the thread that makes it, before its threads run.
using LaunchObserver = void (*)(const char* kernel, const DeviceStream& stream,
                                std::span<const LaunchPointer> arguments);

struct StandInSettings {
  int devices = 2;
  int failure_of_count = 0;                         // a code that looking for devices fails with
  std::size_t memory_bytes = std::size_t{2} << 30;  // of a device
  bool reverse = false;                             // blocks and threads run last to first
  std::vector<std::string>* record =
      nullptr;  // calls in order: "launch NAME", "copy 1 -> ...", ...
  LaunchObserver observer = nullptr;
};
// Of the process: tests set what they need and put it back.
StandInSettings& stand_in_settings();

// Codes that the stand-in's functions return.
inline constexpr int kStandInOutOfMemory = 2;
inline constexpr int kStandInNoDevice = 100;
inline constexpr int kStandInOldDriver = 35;
inline constexpr int kStandInWrongMemory = 700;

struct Index3 {
  unsigned x = 0;
  unsigned y = 0;
  unsigned z = 0;
};
// Of the fiber that runs.
extern constinit thread_local Index3 threadIdx;
extern constinit thread_local Index3 blockIdx;
extern constinit thread_local Index3 blockDim;
extern constinit thread_local Index3 gridDim;

inline int lane_index() {
  return static_cast<int>(threadIdx.x % 32);
}

// Shared memory of the block that runs: one array for each tag.
void* shared_array(const void* tag, std::size_t bytes);
void* dynamic_shared_memory();

// What the lanes of a warp have given to an operation.
struct WarpSlots {
  static constexpr std::size_t kBytes = 32;
  const std::byte* slots;

  const void* of(int lane) const { return slots + static_cast<std::size_t>(lane) * kBytes; }
};

// Gives `bytes` bytes (at most WarpSlots::kBytes) to the other lanes of the warp and waits until
// all have given theirs. The slots are valid until this lane's next operation but one.
WarpSlots exchange(const char* operation, const void* value, std::size_t bytes);

void sync_threads(std::source_location where = std::source_location::current());
void sync_warp();
unsigned ballot(bool predicate);

void copy_async(void* to, const void* from);
void copy_async_commit();
void copy_async_wait_for(std::size_t groups_left);
template <int N>
void copy_async_wait() {
  copy_async_wait_for(N);
}

void load_matrices(unsigned (&r)[4], const void* row);
void load_matrices_transposed(unsigned (&r)[4], const void* row);
void multiply_add(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], BFloat16 type);
void multiply_add(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], Float16 type);

// Throws Error(kInternal) unless [p, p + bytes) lies within one allocation of the stand-in.
void check_device_range(const void* p, std::size_t bytes);

struct Grid {
  unsigned blocks = 0;             // nothing is started when it is 0
  unsigned threads = 0;            // of a block; a multiple of 32, at most 1024
  std::size_t dynamic_shared = 0;  // bytes
};

void run_grid(const char* name, const Grid& grid, const DeviceStream& stream,
              std::span<const LaunchPointer> arguments, void (*run)(const void* body),
              const void* body);

}  // namespace lockstep::core::cuda
