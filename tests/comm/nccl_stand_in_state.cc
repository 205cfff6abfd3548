// What the tests tell the stand-in for NCCL, and what it tells them.

#include <fmt/format.h>

#include <algorithm>

#include "tests/comm/nccl_stand_in_comm.h"

namespace lockstep::comm::testing {

NcclFaults faults_of(int rank) {
  NcclStandInState& state = nccl_state();
  const std::lock_guard lock(state.mutex);
  return state.faults.rank == rank ? state.faults : NcclFaults{};
}

void note(const nccl::Comm& comm, const std::string& what) {
  NcclStandInState& state = nccl_state();
  const std::lock_guard lock(state.mutex);
  state.calls.push_back(fmt::format("rank {} {}", comm.state->rank, what));
}

nccl::Result refuse(nccl::Comm* comm, nccl::Result result, const std::string& why) {
  comm->last_error = why;
  return result;
}

void notice_lost_peer(nccl::Comm* comm) {
  if (!comm->state->lost_a_peer) return;
  comm->error = nccl::kRemoteError;
  comm->last_error = "the connection was closed by a peer";
}

nccl::Result check_ready(nccl::Comm* comm) {
  notice_lost_peer(comm);
  if (comm->error != nccl::kSuccess)
    return refuse(comm, comm->error, "the communicator has failed");
  if (comm->polls_left > 0) {
    return refuse(comm, nccl::kInvalidArgument, "the operation before is still in progress");
  }
  return nccl::kSuccess;
}

NcclStandInState& nccl_state() {
  static NcclStandInState state;
  return state;
}

void clear_nccl_state(const NcclFaults& faults) {
  const std::lock_guard lock(nccl_state().mutex);
  nccl_state().faults = faults;
  nccl_state().calls.clear();
  nccl_state().misuses.clear();
}

int count_nccl_calls(const std::string& beginning) {
  const std::lock_guard lock(nccl_state().mutex);
  const auto& calls = nccl_state().calls;
  return static_cast<int>(std::count_if(calls.begin(), calls.end(), [&](const std::string& call) {
    return call.compare(0, beginning.size(), beginning) == 0;
  }));
}

}  // namespace lockstep::comm::testing
