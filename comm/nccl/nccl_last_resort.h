#pragma once

#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>

#include "comm/nccl/nccl_options.h"
#include "comm/roll_call.h"
#include "core/device_runtime.h"

namespace lockstep::comm {

// For a device that not even ncclCommAbort frees: whoever waits for it, that call included, would
// wait for ever. NCCL's own abort waits for streams; and of the collectives of symmetric windows,
// by kernels and by copy engines alike, none looks at the flag that an abort sets (2.28 to 2.30),
// so that one whose peer is gone never ends. See NcclOptions::last_resort.
class NcclLastResort {
 public:
  // stream: of the collectives; it must outlive this.
  NcclLastResort(core::DeviceRef device, const core::DeviceStream& stream,
                 const RollCall& roll_call, const NcclOptions& options);
  // Returns when the stream is free, where expect_free() was called or the group has failed.
  ~NcclLastResort();

  // From now on it counts as a failure that the stream does not come to its end.
  void expect_free();

 private:
  void watch();
  bool is_free();

  core::DeviceRef device_;
  const core::DeviceStream& stream_;
  const RollCall& roll_call_;
  NcclOptions options_;
  std::optional<core::DeviceEvent> end_;  // of what was on the stream when it was to come free

  std::mutex mutex_;
  std::condition_variable changed_;
  bool expected_free_ = false;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace lockstep::comm
