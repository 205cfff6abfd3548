#pragma once

#include <mutex>
#include <string>

#include "comm/nccl/nccl_api.h"

namespace lockstep::comm {

enum class NcclState {
  kReady,
  kInProgress,  // a call goes on in the background
  kFailed,      // what() says why
  kGone         // aborted, destroyed, or not begun
};

// Owning, not movable: a communicator of NCCL that does not block. From any thread; calls come to
// the library one at a time, as it wants them, and never after an abort.
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

  // Sends off what is under way, in the background; then destroy() gives the communicator back.
  NcclState finalize();
  void destroy();

  // Ends everything under way, on the device too. Never throws.
  void abort() noexcept;

  std::string what() const;  // of kFailed

 private:
  NcclState state_after(nccl::Result result);

  const nccl::Api& api_;
  mutable std::mutex mutex_;
  nccl::Comm* comm_ = nullptr;
  std::string what_;
};

}  // namespace lockstep::comm
