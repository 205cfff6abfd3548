#include "comm/nccl/nccl_handle.h"

#include <fmt/format.h>

namespace lockstep::comm {

NcclState NcclHandle::connect(int ranks, int rank, const nccl::UniqueId& id, nccl::Config config) {
  const std::lock_guard lock(mutex_);
  config.blocking = 0;
  return state_after(api_.comm_init_rank_config(&comm_, ranks, id, rank, &config));
}

NcclState NcclHandle::state() {
  return call([this](nccl::Comm* comm) {
    nccl::Result error = nccl::kSuccess;
    const nccl::Result asked = api_.comm_get_async_error(comm, &error);
    return asked == nccl::kSuccess ? error : asked;
  });
}

NcclState NcclHandle::finalize() {
  return call([this](nccl::Comm* comm) { return api_.comm_finalize(comm); });
}

void NcclHandle::destroy() {
  const std::lock_guard lock(mutex_);
  if (comm_ != nullptr) api_.comm_destroy(comm_);
  comm_ = nullptr;
}

void NcclHandle::abort() noexcept {
  const std::lock_guard lock(mutex_);
  if (comm_ != nullptr) api_.comm_abort(comm_);
  comm_ = nullptr;
}

std::string NcclHandle::what() const {
  const std::lock_guard lock(mutex_);
  return what_;
}

NcclState NcclHandle::state_after(nccl::Result result) {
  if (result == nccl::kSuccess) return NcclState::kReady;
  if (result == nccl::kInProgress) return NcclState::kInProgress;
  const char* details = api_.get_last_error(comm_);
  what_ = fmt::format("NCCL error {}: {}", static_cast<int>(result), api_.get_error_string(result));
  if (details != nullptr && *details != '\0') what_ += fmt::format(" ({})", details);
  return NcclState::kFailed;
}

}  // namespace lockstep::comm
