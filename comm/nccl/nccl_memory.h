#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "comm/nccl/nccl_handle.h"
#include "comm/shared_buffer.h"
#include "core/device_runtime.h"
#include "core/memory.h"

namespace lockstep::comm {

// Device memory from ncclMemAlloc, the only one that can be registered everywhere: zero-filled, and
// counted in `tracker`, which must outlive it, by the bytes asked for. (NCCL takes whole pages, of
// 2 MiB as a rule; a run has three such buffers.)
//
// It goes as memory of the runtime goes: after what the device was given has ended. Then it is
// deregistered, unless its communicator, which it may outlive, has done so at its end.
class NcclMemory final : public SharedBuffer::Storage {
 public:
  // Throws Error(kOutOfMemory) naming region and size, Error(kCommunication) when NCCL fails with
  // enough memory free. timeout: of deregistering it.
  NcclMemory(std::shared_ptr<NcclHandle> handle, const nccl::Api& api, core::DeviceRef device,
             core::MemoryTracker& tracker, const std::string& region, std::size_t bytes,
             std::chrono::milliseconds timeout);
  ~NcclMemory() override;

  // Once, of memory that is not empty. See NcclHandle::register_memory.
  NcclState register_with_nccl(bool as_window);
  bool is_registered() const { return handle_->is_registered(number_); }

 private:
  std::shared_ptr<NcclHandle> handle_;
  const nccl::Api& api_;
  core::DeviceRef device_ref_;
  core::MemoryTracker& tracker_;
  std::string region_;
  std::chrono::milliseconds timeout_;
  std::uint64_t number_ = 0;  // of its registration
};

}  // namespace lockstep::comm
