#include "comm/nccl/nccl_handle.h"

#include <fmt/format.h>

#include <chrono>

#include "comm/exchange/backoff.h"

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

NcclState NcclHandle::register_memory(void* memory, std::size_t bytes, bool as_window,
                                      std::uint64_t& number) {
  return call([&](nccl::Comm* comm) {
    number = next_number_++;
    Registration& made = registrations_[number];
    if (!as_window) return api_.comm_register(comm, memory, bytes, &made.local);
    return api_.comm_window_register(comm, memory, bytes, &made.window, nccl::kWindowSymmetric);
  });
}

bool NcclHandle::is_registered(std::uint64_t number) const {
  const std::lock_guard lock(mutex_);
  const auto found = registrations_.find(number);
  return found != registrations_.end() &&
         (found->second.local != nullptr || found->second.window != nullptr);
}

NcclState NcclHandle::deregister(std::uint64_t number, Deadline deadline) {
  NcclState state = call([&](nccl::Comm* comm) {
    const auto found = registrations_.find(number);
    if (found == registrations_.end()) return nccl::kSuccess;
    const Registration gone = found->second;
    registrations_.erase(found);
    if (gone.window != nullptr) return api_.comm_window_deregister(comm, gone.window);
    return gone.local == nullptr ? nccl::kSuccess : api_.comm_deregister(comm, gone.local);
  });
  Backoff backoff(true);
  while (state == NcclState::kInProgress && std::chrono::steady_clock::now() < deadline) {
    backoff.pause();
    state = this->state();
  }
  return state;
}

std::vector<std::uint64_t> NcclHandle::registrations() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::uint64_t> numbers;
  for (const auto& [number, registration] : registrations_)
    numbers.push_back(number);
  return numbers;
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
  registrations_.clear();
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
