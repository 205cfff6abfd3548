// Memory that NCCL is told of: see NcclBuffers and make_nccl_communicator.

#include <algorithm>
#include <memory>
#include <utility>

#include "comm/nccl/nccl_communicator.h"
#include "comm/nccl/nccl_memory.h"
#include "core/check.h"

namespace lockstep::comm {

using core::ErrorKind;

SharedBuffer NcclCommunicator::do_allocate(std::size_t bytes, const std::string& region,
                                           core::MemoryTracker& tracker, BufferUse use) {
  if (buffers_ == NcclBuffers::kPlain) {
    return DeviceCommunicator::do_allocate(bytes, region, tracker, use);
  }
  const std::string label = "allocate " + region;
  std::unique_ptr<NcclMemory> memory;
  std::optional<core::Error> problem;
  try {
    memory = std::make_unique<NcclMemory>(handle_, api_, device_ref(), tracker, region, bytes,
                                          timeout());
  } catch (const core::Error& error) {
    problem = error;
  }
  throw_on_all(problem, label);
  // NCCL wants windows of one size, from all ranks; where ranks differ it is a plain registration.
  struct Wanted {
    std::uint64_t bytes;
    std::uint64_t window;
  };
  const bool symmetric = buffers_ == NcclBuffers::kSymmetric && use == BufferUse::kCopied;
  const Wanted mine{bytes, symmetric ? 1U : 0U};
  const auto wanted = all_gather_small(mine, label);
  const bool as_window = std::all_of(wanted.begin(), wanted.end(), [&](const Wanted& w) {
    return w.window == 1 && w.bytes == mine.bytes;
  });
  if (bytes > 0) problem = with_host([&] { return register_memory(*memory, region, as_window); });
  throw_on_all(problem, label);
  return SharedBuffer(std::move(memory));
}

// With the host communicator locked. What NCCL fails in fails the group; that it may not, or has no
// use for the memory, comes back as an error for the one who asked.
std::optional<core::Error> NcclCommunicator::register_memory(NcclMemory& memory,
                                                             const std::string& region,
                                                             bool as_window) {
  const std::string what = fmt::format("register {} ({} bytes){}", region, memory.bytes(),
                                       as_window ? " as a symmetric window" : "");
  finish(memory.register_with_nccl(as_window), what);
  if (memory.is_registered()) return std::nullopt;
  return core::Error(
      ErrorKind::kConfig,
      fmt::format("NCCL did not {}: {}; or use backend.nccl_buffers: {}", what,
                  as_window ? "the GPUs do not all reach each other's memory, or its environment "
                              "keeps it from it (NCCL_WIN_ENABLE, NCCL_CUMEM_ENABLE)"
                            : "its environment keeps it from it (NCCL_LOCAL_REGISTER, "
                              "NCCL_P2P_USE_CUDA_MEMCPY)",
                  as_window ? "registered" : "plain"));
}

}  // namespace lockstep::comm
