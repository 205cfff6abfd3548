#pragma once

#include <climits>
#include <cstddef>

#include "core/device_runtime.h"

// What Lockstep asks of NCCL, as a table of function pointers: load_nccl() fills one with the
// library, tests with ranks that they imitate over host memory. So that nothing is compiled
// against, or linked with, NCCL. The declarations are those of nccl.h since 2.18, as far as they
// are needed; where that header is found, a test compares them with it.
namespace lockstep::comm::nccl {

struct Comm;  // the library's own

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

// As of 2.18: a newer library takes what is not in it from its own defaults.
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
};

inline constexpr int kOldestVersion = 21800;

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
};

}  // namespace lockstep::comm::nccl
