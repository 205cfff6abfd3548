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
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 28, 0)
static_assert(sizeof(Config) <= sizeof(ncclConfig_t));
static_assert(offsetof(Config, traffic_class) == offsetof(ncclConfig_t, trafficClass));
static_assert(offsetof(Config, comm_name) == offsetof(ncclConfig_t, commName));
static_assert(offsetof(Config, collnet_enable) == offsetof(ncclConfig_t, collnetEnable));
static_assert(offsetof(Config, cta_policy) == offsetof(ncclConfig_t, CTAPolicy));
static_assert(offsetof(Config, shrink_share) == offsetof(ncclConfig_t, shrinkShare));
static_assert(offsetof(Config, nvls_ctas) == offsetof(ncclConfig_t, nvlsCTAs));
static_assert(offsetof(Config, channels_per_net_peer) ==
              offsetof(ncclConfig_t, nChannelsPerNetPeer));
static_assert(offsetof(Config, nvlink_centric_scheduling) ==
              offsetof(ncclConfig_t, nvlinkCentricSched));
static_assert(nccl::kCtaPolicyZero == NCCL_CTA_POLICY_ZERO);
static_assert(nccl::kCopyEngineVersion == NCCL_VERSION(2, 28, 0));
#endif
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
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 19, 0)
LOCKSTEP_SAME_CALL(mem_alloc, ncclMemAlloc);
LOCKSTEP_SAME_CALL(mem_free, ncclMemFree);
LOCKSTEP_SAME_CALL(comm_register, ncclCommRegister);
LOCKSTEP_SAME_CALL(comm_deregister, ncclCommDeregister);
#endif
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 27, 0)
LOCKSTEP_SAME_CALL(comm_window_register, ncclCommWindowRegister);
LOCKSTEP_SAME_CALL(comm_window_deregister, ncclCommWindowDeregister);
static_assert(nccl::kWindowSymmetric == NCCL_WIN_COLL_SYMMETRIC);
#endif
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
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 28, 0)
  EXPECT_EQ(ours.traffic_class, theirs.trafficClass);
  EXPECT_EQ(ours.comm_name, theirs.commName);
  EXPECT_EQ(ours.collnet_enable, theirs.collnetEnable);
  EXPECT_EQ(ours.cta_policy, theirs.CTAPolicy);
  EXPECT_EQ(ours.shrink_share, theirs.shrinkShare);
  EXPECT_EQ(ours.nvls_ctas, theirs.nvlsCTAs);
  EXPECT_EQ(ours.channels_per_net_peer, theirs.nChannelsPerNetPeer);
  EXPECT_EQ(ours.nvlink_centric_scheduling, theirs.nvlinkCentricSched);
#endif
}

}  // namespace
}  // namespace lockstep::comm
