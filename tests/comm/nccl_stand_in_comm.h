#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "comm/nccl/nccl_api.h"
#include "tests/comm/nccl_meeting.h"
#include "tests/comm/nccl_registered.h"
#include "tests/comm/nccl_stand_in.h"

// The inside of the stand-in for NCCL.
namespace lockstep::comm {

// Shared with the streams that work for it, which end after it.
struct nccl::Comm {
  struct State {
    std::shared_ptr<testing::Group> group;
    int rank = 0;
    std::atomic<bool> aborted{false};
    std::atomic<bool> lost_a_peer{false};
  };
  // Asked for, and not there before all ranks have asked.
  struct PendingWindow {
    std::uint64_t number = 0;
    void* memory = nullptr;
    std::size_t bytes = 0;
    Window** result = nullptr;
  };

  std::shared_ptr<State> state = std::make_shared<State>();
  std::uint64_t next = 0;  // number of its next collective
  int polls_left = 0;      // of get_async_error, before the last call is over
  bool finalized = false;
  bool copy_engines = false;
  testing::Registrations registrations;
  std::optional<PendingWindow> pending_window;
  std::uint64_t next_window = 0;
  nccl::Result error = nccl::kSuccess;
  std::string last_error;
};

namespace testing {

NcclFaults faults_of(int rank);
void note(const nccl::Comm& comm, const std::string& what);  // as one of the calls
nccl::Result refuse(nccl::Comm* comm, nccl::Result result, const std::string& why);
void notice_lost_peer(nccl::Comm* comm);
// What every call of a communicator asks first.
nccl::Result check_ready(nccl::Comm* comm);

}  // namespace testing
}  // namespace lockstep::comm
