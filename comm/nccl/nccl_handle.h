#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "comm/nccl/nccl_api.h"
#include "comm/work.h"

namespace lockstep::comm {

enum class NcclState {
  kReady,
  kInProgress,  // a call goes on in the background
  kFailed,      // what() says why
  kGone         // aborted, destroyed, or not begun
};

// Owning, not movable: a communicator of NCCL that does not block, and what is registered with it.
// From any thread; calls come to the library one at a time, as it wants them, and never after an
// abort.
class NcclHandle {
 public:
  explicit NcclHandle(const nccl::Api& api) : api_(api) {}
  ~NcclHandle() { abort(); }
  NcclHandle(const NcclHandle&) = delete;
  NcclHandle& operator=(const NcclHandle&) = delete;

  // Begins to connect the ranks, in the background. All ranks' calls with one id make one group.
  NcclState connect(int ranks, int rank, const nccl::UniqueId& id, nccl::Config config);

  // call(comm) -> nccl::Result, which must not wait for anybody.
  template <typename Call>
  NcclState call(Call&& call) {
    const std::lock_guard lock(mutex_);
    if (comm_ == nullptr) return NcclState::kGone;
    return state_after(call(comm_));
  }

  // How the last call, or the group as a whole, is doing.
  NcclState state();

  // Registers memory of NCCL's and gives it a number, of which deregister() wants to hear before
  // the memory goes. As a window: a call of all ranks, over only when state() says so. An abort
  // deregisters everything; of numbers from before there is nothing to tell any more.
  NcclState register_memory(void* memory, std::size_t bytes, bool as_window, std::uint64_t& number);
  // Whether NCCL has it registered, its registration being over: it may do without, and say
  // nothing.
  bool is_registered(std::uint64_t number) const;
  // Waits for it, at most until the deadline.
  NcclState deregister(std::uint64_t number, Deadline deadline);
  std::vector<std::uint64_t> registrations() const;

  // Sends off what is under way, in the background, with nothing registered any more; then
  // destroy() gives the communicator back.
  NcclState finalize();
  void destroy();

  // Ends everything under way, on the device too. Never throws.
  void abort() noexcept;

  std::string what() const;  // of kFailed

 private:
  // One of the two, or none where NCCL does without.
  struct Registration {
    void* local = nullptr;
    nccl::Window* window = nullptr;
  };

  NcclState state_after(nccl::Result result);

  const nccl::Api& api_;
  mutable std::mutex mutex_;
  nccl::Comm* comm_ = nullptr;
  std::string what_;
  std::uint64_t next_number_ = 1;
  std::map<std::uint64_t, Registration> registrations_;  // by number; NCCL writes into them
};

}  // namespace lockstep::comm
