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
  nccl::Result register_fails = nccl::kSuccess;  // also in the background, of a window
  bool register_skips = false;                   // NCCL was told, or sees, that it is of no use
  bool window_never_ends = false;                // it does not come, so nobody's does
  bool deaf_to_abort = false;                    // what it hangs in only let_deaf_go() ends
};

struct NcclStandInState {
  std::mutex mutex;
  // Work of streams is over when a call returns, as on the plain stand-in: a collective returns
  // when all ranks have come to it, and fails when they do not within kPatience.
  bool at_once = false;
  NcclFaults faults;
  std::vector<std::string> calls;    // "rank 1 all_reduce 4", ...: those of all ranks
  std::vector<std::string> misuses;  // of what NCCL leaves undefined
};
inline constexpr std::chrono::seconds kPatience{30};
// Of the process. Tests clear it.
NcclStandInState& nccl_state();
void clear_nccl_state(const NcclFaults& faults = {});

// "calls" of this beginning, so far.
int count_nccl_calls(const std::string& beginning);

// Ends what ranks that are deaf to aborts hang in.
void let_deaf_go();

// Communicators not given back, memory not freed, and threads in the middle of a group.
int live_nccl_comms();
int live_nccl_memory();
int open_nccl_groups();

}  // namespace lockstep::comm::testing
