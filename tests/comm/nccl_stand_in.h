#pragma once

#include <chrono>
#include <mutex>
#include <string>
#include <vector>

#include "comm/nccl/nccl_api.h"

// NCCL for ranks that are threads of one process, with streams and memory of async_runtime(), or of
// the plain stand-in when nccl_state() says so. It does what collectives do, in the order of a ring
// and rounding at every hop as NCCL does, answers kInProgress to every call as a communicator that
// does not block, and refuses calls that come too early. As in NCCL an abort ends what this rank's
// device is in, and nobody else's; a rank that does not come, or comes with something else, leaves
// the others hanging on their devices.
namespace lockstep::comm::testing {

const nccl::Api& nccl_stand_in();

// What shall go wrong, on one rank.
struct NcclFaults {
  int rank = -1;                                 // nobody
  nccl::Result init_fails = nccl::kSuccess;      // at the call
  bool init_never_ends = false;                  // it does not connect, so nobody does
  std::uint64_t async_error_after = UINT64_MAX;  // of its collectives; kRemoteError in the next
  int failing_send = -1;                         // the send of a group that is refused
  std::chrono::milliseconds slower{0};           // each collective takes so much longer
};

struct NcclStandInState {
  std::mutex mutex;
  // Work of streams is over when a call returns, as on the plain stand-in: a collective returns
  // when all ranks have come to it, and fails when they do not within kPatience.
  bool at_once = false;
  NcclFaults faults;
  std::vector<std::string> calls;  // "rank 1 all_reduce 4 floats", ...: those of all ranks
};
inline constexpr std::chrono::seconds kPatience{30};
// Of the process. Tests clear it.
NcclStandInState& nccl_state();
void clear_nccl_state(const NcclFaults& faults = {});

// Communicators not given back, and threads in the middle of a group.
int live_nccl_comms();
int open_nccl_groups();

}  // namespace lockstep::comm::testing
