// What comm/nccl/nccl_api.h says of NCCL is what nccl.h says. Built where that header is found.

#include <gtest/gtest.h>
#include <nccl.h>

#include <cstddef>
#include <type_traits>

#include "comm/nccl/nccl_api.h"

namespace lockstep::comm {
namespace {

using nccl::Config;

static_assert(sizeof(nccl::UniqueId) == sizeof(ncclUniqueId));
static_assert(int{nccl::kSuccess} == ncclSuccess &&
              int{nccl::kUnhandledCudaError} == ncclUnhandledCudaError);
static_assert(int{nccl::kSystemError} == ncclSystemError &&
              int{nccl::kInternalError} == ncclInternalError);
static_assert(int{nccl::kInvalidArgument} == ncclInvalidArgument &&
              int{nccl::kInvalidUsage} == ncclInvalidUsage);
static_assert(int{nccl::kRemoteError} == ncclRemoteError &&
              int{nccl::kInProgress} == ncclInProgress);
static_assert(int{nccl::kSum} == ncclSum && int{nccl::kMax} == ncclMax &&
              int{nccl::kMin} == ncclMin);
static_assert(int{nccl::kUint8} == ncclUint8 && int{nccl::kInt32} == ncclInt32);
static_assert(int{nccl::kUint32} == ncclUint32 && int{nccl::kInt64} == ncclInt64);
static_assert(int{nccl::kFloat16} == ncclFloat16 && int{nccl::kFloat32} == ncclFloat32);
static_assert(int{nccl::kFloat64} == ncclFloat64 && int{nccl::kBfloat16} == ncclBfloat16);
static_assert(sizeof(nccl::Result) == sizeof(ncclResult_t) &&
              sizeof(nccl::DataType) == sizeof(ncclDataType_t));
static_assert(Config::kUndefined == NCCL_CONFIG_UNDEF_INT);
static_assert(sizeof(Config) <= sizeof(ncclConfig_t));
static_assert(offsetof(Config, blocking) == offsetof(ncclConfig_t, blocking));
static_assert(offsetof(Config, cga_cluster_size) == offsetof(ncclConfig_t, cgaClusterSize));
static_assert(offsetof(Config, min_ctas) == offsetof(ncclConfig_t, minCTAs));
static_assert(offsetof(Config, max_ctas) == offsetof(ncclConfig_t, maxCTAs));
static_assert(offsetof(Config, net_name) == offsetof(ncclConfig_t, netName));
static_assert(offsetof(Config, split_share) == offsetof(ncclConfig_t, splitShare));

// The same number of parameters of the same sizes, the last of the collectives a stream.
template <typename Ours, typename Theirs>
struct SameCall : std::false_type {};
template <typename R, typename... A, typename S, typename... B>
struct SameCall<R (*)(A...), S (*)(B...)> : std::bool_constant<(sizeof...(A) == sizeof...(B))> {
  static_assert(((sizeof(A) == sizeof(B)) && ...));
};

#define LOCKSTEP_SAME_CALL(member, function) \
  static_assert(SameCall<decltype(nccl::Api::member), decltype(&function)>::value)
LOCKSTEP_SAME_CALL(get_version, ncclGetVersion);
LOCKSTEP_SAME_CALL(get_error_string, ncclGetErrorString);
LOCKSTEP_SAME_CALL(get_last_error, ncclGetLastError);
LOCKSTEP_SAME_CALL(get_unique_id, ncclGetUniqueId);
LOCKSTEP_SAME_CALL(comm_init_rank_config, ncclCommInitRankConfig);
LOCKSTEP_SAME_CALL(comm_finalize, ncclCommFinalize);
LOCKSTEP_SAME_CALL(comm_destroy, ncclCommDestroy);
LOCKSTEP_SAME_CALL(comm_abort, ncclCommAbort);
LOCKSTEP_SAME_CALL(comm_get_async_error, ncclCommGetAsyncError);
LOCKSTEP_SAME_CALL(all_reduce, ncclAllReduce);
LOCKSTEP_SAME_CALL(reduce_scatter, ncclReduceScatter);
LOCKSTEP_SAME_CALL(all_gather, ncclAllGather);
LOCKSTEP_SAME_CALL(broadcast, ncclBroadcast);
LOCKSTEP_SAME_CALL(send, ncclSend);
LOCKSTEP_SAME_CALL(receive, ncclRecv);
LOCKSTEP_SAME_CALL(group_start, ncclGroupStart);
LOCKSTEP_SAME_CALL(group_end, ncclGroupEnd);
#undef LOCKSTEP_SAME_CALL

TEST(NcclHeader, AConfigurationBeginsAsTheLibrarysDoes) {
  const ncclConfig_t theirs = NCCL_CONFIG_INITIALIZER;
  const Config ours;
  EXPECT_EQ(ours.size, sizeof(Config));
  EXPECT_EQ(ours.magic, theirs.magic);
  EXPECT_LE(ours.version, theirs.version);
  EXPECT_EQ(ours.blocking, theirs.blocking);
  EXPECT_EQ(ours.max_ctas, theirs.maxCTAs);
  EXPECT_EQ(ours.net_name, theirs.netName);
  EXPECT_EQ(ours.split_share, theirs.splitShare);
}

}  // namespace
}  // namespace lockstep::comm
