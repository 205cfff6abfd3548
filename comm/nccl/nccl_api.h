#pragma once

#include <climits>
#include <cstddef>

#include "core/device_runtime.h"

// What Lockstep asks of NCCL, as a table of function pointers: load_nccl() fills one with the
// library, tests with ranks that they imitate over host memory. So that nothing is compiled
// against, or linked with, NCCL. The declarations are those of nccl.h since 2.18, as far as they
// are needed; where that header is found, a test compares them with it.
namespace lockstep::comm::nccl {

struct Comm;    // the library's own
struct Window;  // too

struct UniqueId {
  char internal[128];
};

enum Result : int {
  kSuccess = 0,
  kUnhandledCudaError = 1,
  kSystemError = 2,
  kInternalError = 3,
  kInvalidArgument = 4,
  kInvalidUsage = 5,
  kRemoteError = 6,
  kInProgress = 7
};

enum RedOp : int { kSum = 0, kMax = 2, kMin = 3 };

enum DataType : int {
  kUint8 = 1,
  kInt32 = 2,
  kUint32 = 3,
  kInt64 = 4,
  kFloat16 = 6,
  kFloat32 = 7,
  kFloat64 = 8,
  kBfloat16 = 9
};

// As of 2.28. A library takes from it what its version says it holds, so that of 2.18 will do for
// all but what came later; an older library takes as much of it as it knows.
struct Config {
  static constexpr int kUndefined = INT_MIN;

  std::size_t size = sizeof(Config);
  unsigned magic = 0xcafebeef;
  unsigned version = 21800;
  int blocking = kUndefined;
  int cga_cluster_size = kUndefined;
  int min_ctas = kUndefined;
  int max_ctas = kUndefined;
  const char* net_name = nullptr;
  int split_share = kUndefined;
  // Since 2.28, or of no effect before.
  int traffic_class = kUndefined;
  const char* comm_name = nullptr;
  int collnet_enable = kUndefined;
  int cta_policy = kUndefined;
  int shrink_share = kUndefined;
  int nvls_ctas = kUndefined;
  int channels_per_net_peer = kUndefined;
  int nvlink_centric_scheduling = kUndefined;
};

inline constexpr int kOldestVersion = 21800;
inline constexpr int kCopyEngineVersion = 22800;  // the first with kCtaPolicyZero
inline constexpr int kCtaPolicyZero = 2;          // copy engines wherever they can
inline constexpr int kWindowSymmetric = 1;        // offsets into it are the same on all ranks

// A stream is the runtime's own, core::DeviceStream::handle(). With a communicator that does not
// block, kInProgress says that a call goes on in the background: nothing else may be asked of the
// communicator until get_async_error no longer says so. Calls on one communicator come one at a
// time, from any thread.
struct Api {
  using Stream = core::DeviceStreamHandle*;

  Result (*get_version)(int* version);
  const char* (*get_error_string)(Result result);
  const char* (*get_last_error)(Comm* comm);
  Result (*get_unique_id)(UniqueId* id);
  Result (*comm_init_rank_config)(Comm** comm, int ranks, UniqueId id, int rank, Config* config);
  Result (*comm_finalize)(Comm* comm);
  Result (*comm_destroy)(Comm* comm);
  Result (*comm_abort)(Comm* comm);
  Result (*comm_get_async_error)(Comm* comm, Result* error);

  Result (*all_reduce)(const void* send, void* receive, std::size_t count, DataType type, RedOp op,
                       Comm* comm, Stream stream);
  Result (*reduce_scatter)(const void* send, void* receive, std::size_t receive_count,
                           DataType type, RedOp op, Comm* comm, Stream stream);
  Result (*all_gather)(const void* send, void* receive, std::size_t send_count, DataType type,
                       Comm* comm, Stream stream);
  Result (*broadcast)(const void* send, void* receive, std::size_t count, DataType type, int root,
                      Comm* comm, Stream stream);
  Result (*send)(const void* data, std::size_t count, DataType type, int peer, Comm* comm,
                 Stream stream);
  Result (*receive)(void* data, std::size_t count, DataType type, int peer, Comm* comm,
                    Stream stream);
  Result (*group_start)();
  Result (*group_end)();

  // What older libraries lack is null here. Memory comes from the calling thread's device.
  Result (*mem_alloc)(void** memory, std::size_t bytes);  // 2.19, and the three that follow
  Result (*mem_free)(void* memory);  // does not wait for the device, as the runtime's own does
  // Of this rank alone. A null handle and kSuccess: NCCL was told not to register.
  Result (*comm_register)(Comm* comm, void* memory, std::size_t bytes, void** handle);
  Result (*comm_deregister)(Comm* comm, void* handle);
  // Of all ranks, in the same order, with the same size (2.27). With a communicator that does not
  // block it may answer kSuccess and still go on in the background; `window` is written when
  // that is over. A null window then: the GPUs do not reach each other's memory.
  Result (*comm_window_register)(Comm* comm, void* memory, std::size_t bytes, Window** window,
                                 int flags);
  Result (*comm_window_deregister)(Comm* comm, Window* window);  // of this rank alone
};

}  // namespace lockstep::comm::nccl
