#include "comm/nccl/nccl_memory.h"

#include <fmt/format.h>

#include <utility>

namespace lockstep::comm {

using core::ErrorKind;

namespace {

constexpr std::size_t kPage = std::size_t{2} << 20;  // that NCCL rounds up to

double mebibytes(std::size_t bytes) {
  return static_cast<double>(bytes) / 1048576.0;
}

// Of memory that ran out NCCL says only that a call of CUDA failed.
core::Error failure_of(const nccl::Api& api, nccl::Result result, core::DeviceRef device,
                       std::size_t bytes, const std::string& what) {
  std::size_t free = 0;
  std::size_t total = 0;
  device.runtime->memory_info(device.device.index, &free, &total);
  const bool ran_out = free < kPage || free - kPage < bytes;
  return {ran_out ? ErrorKind::kOutOfMemory : ErrorKind::kCommunication,
          fmt::format("{}: ncclMemAlloc, with {:.1f} MiB free: NCCL error {}: {}", what,
                      mebibytes(free), static_cast<int>(result), api.get_error_string(result))};
}

void* allocate(const nccl::Api& api, core::DeviceRef device, core::MemoryTracker& tracker,
               const std::string& region, std::size_t bytes) {
  if (bytes == 0) return nullptr;
  tracker.add(region, bytes);
  void* memory = nullptr;
  try {
    const core::DeviceRuntime& runtime = *device.runtime;
    const std::string what = fmt::format("cannot allocate {:.1f} MiB for {} on {}",
                                         mebibytes(bytes), region, core::to_string(device.device));
    core::check_device(runtime, runtime.use(device.device.index), what);
    const nccl::Result result = api.mem_alloc(&memory, bytes);
    if (result != nccl::kSuccess) {
      memory = nullptr;
      throw failure_of(api, result, device, bytes, what);
    }
    core::check_device(runtime, runtime.fill(memory, 0, bytes, nullptr), what);
  } catch (...) {
    if (memory != nullptr) api.mem_free(memory);
    tracker.remove(region, bytes);
    throw;
  }
  return memory;
}

}  // namespace

NcclMemory::NcclMemory(std::shared_ptr<NcclHandle> handle, const nccl::Api& api,
                       core::DeviceRef device, core::MemoryTracker& tracker,
                       const std::string& region, std::size_t bytes,
                       std::chrono::milliseconds timeout)
    : Storage(allocate(api, device, tracker, region, bytes), bytes, device.device),
      handle_(std::move(handle)),
      api_(api),
      device_ref_(device),
      tracker_(tracker),
      region_(region),
      timeout_(timeout) {}

NcclMemory::~NcclMemory() {
  if (data() == nullptr) return;
  device_ref_.runtime->synchronize_device(device_ref_.device.index);
  const NcclState state = handle_->deregister(number_, std::chrono::steady_clock::now() + timeout_);
  // It may not go while it is registered, and an abort leaves nothing registered.
  if (state == NcclState::kFailed || state == NcclState::kInProgress) handle_->abort();
  api_.mem_free(data());
  tracker_.remove(region_, bytes());
}

NcclState NcclMemory::register_with_nccl(bool as_window) {
  return handle_->register_memory(data(), bytes(), as_window, number_);
}

}  // namespace lockstep::comm
