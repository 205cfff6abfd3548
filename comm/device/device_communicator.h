#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "comm/communicator.h"
#include "comm/device/device_comm_timer.h"
#include "comm/roll_call.h"
#include "core/device_runtime.h"

namespace lockstep::comm {

// What the communicators of a device share: the host communicator that serves everything that is
// not on the device, memory of the device, and the present stream.
class DeviceCommunicator : public Communicator {
 public:
  std::size_t internal_bytes() const override { return host_->internal_bytes(); }
  // Calls are counted here; bytes by whoever moves them.
  const CommunicatorStats& stats() const override;
  std::chrono::nanoseconds waited() const override;
  void record_to(FlightRecorder* recorder) override;

 protected:
  // A reference, so that the backend may be named by what `host` says.
  DeviceCommunicator(std::string_view backend, std::unique_ptr<Communicator>&& host,
                     core::DeviceRef device);

  Communicator& host() const { return *host_; }
  RollCall& roll_call_of_host() const { return *host_->roll_call(); }
  const core::DeviceRef& device_ref() const { return device_ref_; }
  // Throws Error(kInternal) before the first work_on.
  const core::DeviceStream& present_stream() const;
  const core::DeviceStream* stream_if_any() const { return stream_; }
  DeviceCommTimer* timer() { return timer_ ? &*timer_ : nullptr; }  // null: nothing is measured
  // From then on there is a timer, which whoever moves data must use.
  void do_measure_times() override;

  SharedBuffer do_allocate(std::size_t bytes, const std::string& region,
                           core::MemoryTracker& tracker, BufferUse use) override;
  // Collective: what kept any rank from going on is thrown on all of them, that of the lowest rank,
  // which is named. mine: of this rank, if anything.
  void throw_on_all(const std::optional<core::Error>& mine, std::string_view label);

 private:
  SharedBuffer do_allocate_host(std::size_t bytes, const std::string& region,
                                core::MemoryTracker& tracker) override;
  void do_work_on(const core::DeviceStream& stream) override;
  void do_abort(core::ErrorKind kind, std::string_view reason) noexcept override;
  bool serves(core::Device device) const override;
  CommTimes do_take_times() override;

  std::unique_ptr<Communicator> host_;
  core::DeviceRef device_ref_;
  const core::DeviceStream* stream_ = nullptr;
  std::optional<DeviceCommTimer> timer_;
  mutable CommunicatorStats stats_;  // what stats() put together last
};

}  // namespace lockstep::comm
