#include "comm/device/device_communicator.h"

#include <utility>

#include "core/check.h"

namespace lockstep::comm {

namespace {

class DeviceStorage : public SharedBuffer::Storage {
 public:
  explicit DeviceStorage(core::Buffer buffer)
      : Storage(buffer.data(), buffer.bytes(), buffer.device()), buffer_(std::move(buffer)) {}

 private:
  core::Buffer buffer_;
};

}  // namespace

DeviceCommunicator::DeviceCommunicator(std::string_view backend,
                                       std::unique_ptr<Communicator>&& host, core::DeviceRef device)
    : Communicator(host->rank(), host->world_size(), backend, host->timeout(), device.device),
      host_(std::move(host)),
      device_ref_(device) {
  LOCKSTEP_CHECK(!device.on_cpu(), "a communicator of a device without its runtime");
  LOCKSTEP_CHECK(host_->roll_call() != nullptr,
                 "a communicator of a device stands on one of a device");
}

const CommunicatorStats& DeviceCommunicator::stats() const {
  stats_ = Communicator::stats();
  for (std::size_t c = 0; c < kCollectives; ++c) {
    const CollectiveStats& moved = host_->stats().by_collective[c];
    stats_.by_collective[c].bytes_sent += moved.bytes_sent;
    stats_.by_collective[c].bytes_received += moved.bytes_received;
  }
  return stats_;
}

std::chrono::nanoseconds DeviceCommunicator::waited() const {
  return Communicator::waited() + host_->waited();
}

void DeviceCommunicator::record_to(FlightRecorder* recorder) {
  Communicator::record_to(recorder);
  host_->record_to(recorder);
}

const core::DeviceStream& DeviceCommunicator::present_stream() const {
  LOCKSTEP_CHECK(stream_ != nullptr,
                 "a collective on {} before work_on named the stream that orders it",
                 core::to_string(device()));
  return *stream_;
}

SharedBuffer DeviceCommunicator::do_allocate(std::size_t bytes, const std::string& region,
                                             core::MemoryTracker& tracker, BufferUse /*use*/) {
  core::Buffer buffer;
  std::optional<core::Error> problem;
  try {
    buffer = core::Buffer(tracker, region, bytes, device_ref_);
  } catch (const core::Error& error) {
    problem = error;
  }
  throw_on_all(problem, "allocate " + region);
  return SharedBuffer(std::make_unique<DeviceStorage>(std::move(buffer)));
}

void DeviceCommunicator::throw_on_all(const std::optional<core::Error>& mine,
                                      std::string_view label) {
  // The kind, which is a digit, and the text.
  const std::string told =
      mine ? std::to_string(static_cast<int>(mine->kind())) + mine->what() : std::string();
  const auto problems = all_gather_bytes(told, label);
  for (std::size_t r = 0; r < problems.size(); ++r) {
    if (problems[r].empty()) continue;
    throw core::Error(static_cast<core::ErrorKind>(problems[r].front() - '0'),
                      fmt::format("rank {}: {}", r, std::string_view(problems[r]).substr(1)));
  }
}

SharedBuffer DeviceCommunicator::do_allocate_host(std::size_t bytes, const std::string& region,
                                                  core::MemoryTracker& tracker) {
  barrier("allocate " + region);  // what was launched before is entered before, on all ranks
  return host_->allocate(bytes, region, tracker);
}

void DeviceCommunicator::do_work_on(const core::DeviceStream& stream) {
  LOCKSTEP_CHECK(stream.device() == device() && &stream.runtime() == device_ref_.runtime,
                 "work_on a stream of {}; this communicator is on {}",
                 core::to_string(stream.device()), core::to_string(device()));
  stream_ = &stream;
}

void DeviceCommunicator::do_abort(core::ErrorKind kind, std::string_view reason) noexcept {
  host_->abort(kind, reason);
}

void DeviceCommunicator::do_measure_times() {
  timer_.emplace(device_ref_);
}

CommTimes DeviceCommunicator::do_take_times() {
  LOCKSTEP_CHECK(timer_.has_value(), "take_times() without measure_times()");
  return timer_->take();
}

bool DeviceCommunicator::serves(core::Device device) const {
  return device.type == core::DeviceType::kCpu || device == this->device();
}

}  // namespace lockstep::comm
