#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace lockstep::comm {

// What Communicator::allocate gives on the device. Each needs all that the one before it needs.
enum class NcclBuffers : std::uint8_t {
  // Memory of the device's runtime. NCCL moves what lies there through buffers of its own.
  kPlain,
  // Memory of NCCL, registered with it once: NCCL reads and writes it directly where it can. Needs
  // NCCL 2.19.
  kRegistered,
  // And what is only copied (BufferUse::kCopied) as windows that lie alike on all ranks, so that
  // all-gathers in them are done by copy engines where all GPUs reach each other's memory. Needs
  // NCCL 2.28.
  kSymmetric
};
std::string_view name_of(NcclBuffers buffers);  // "registered"

struct NcclOptions {
  // The same sizes, ranks and machine give the same bits in every run, though not those of another
  // backend: NCCL_ALGO=Ring, NCCL_PROTO=Simple and NCCL_NVLS_ENABLE=0 are set in the environment.
  bool repeatable = false;
  int max_ctas =
      0;  // thread blocks that NCCL may take from the computation; 0: as many as it likes
  NcclBuffers buffers = NcclBuffers::kPlain;
  // Ends the process with the cause of the group's failure, for want of another way out: called
  // once, from a thread of its own, when the group has failed and the device is still not free
  // after this time. Empty: whoever waits for the device then waits for ever.
  std::function<void(const std::string& cause)> last_resort = nullptr;
  std::chrono::milliseconds patience{60'000};
};

}  // namespace lockstep::comm
