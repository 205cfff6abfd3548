#include "core/device_runtime.h"

#include <fmt/format.h>

#include <utility>

#include "core/error.h"

namespace lockstep::core {

namespace {

ErrorKind kind_of(DeviceFailure failure) {
  switch (failure) {
    case DeviceFailure::kOutOfMemory:
      return ErrorKind::kOutOfMemory;
    case DeviceFailure::kNoDevice:
    case DeviceFailure::kDriver:
    case DeviceFailure::kNoKernelImage:
      return ErrorKind::kConfig;
    case DeviceFailure::kOther:
      return ErrorKind::kInternal;
  }
  return ErrorKind::kInternal;
}

// What a person can do about it.
const char* advice_for(DeviceFailure failure) {
  switch (failure) {
    case DeviceFailure::kNoDevice:
      return "; check nvidia-smi and CUDA_VISIBLE_DEVICES, or run with backend.device: cpu";
    case DeviceFailure::kDriver:
      return "; install a driver that is new enough for this CUDA, or run with backend.device: cpu";
    case DeviceFailure::kNoKernelImage:
      return "; build with this device's architecture in LOCKSTEP_CUDA_ARCHITECTURES";
    case DeviceFailure::kOutOfMemory:
    case DeviceFailure::kOther:
      return "";
  }
  return "";
}

}  // namespace

void check_device(const DeviceRuntime& runtime, int code, std::string_view what) {
  if (code == 0) return;
  const DeviceFailure failure = runtime.failure_of(code);
  throw Error(kind_of(failure), fmt::format("{}: {} error {}: {}{}", what, runtime.name, code,
                                            runtime.error_text(code), advice_for(failure)));
}

std::string why_no_device(const DeviceRuntime& runtime) {
  int devices = 0;
  const int code = runtime.count(&devices);
  if (code != 0) return runtime.error_text(code);
  return devices > 0 ? "" : "no device is visible";
}

DeviceRef open_device(const DeviceRuntime& runtime, int ordinal) {
  int devices = 0;
  check_device(runtime, runtime.count(&devices), "looking for devices");
  if (ordinal < 0 || ordinal >= devices) {
    throw Error(ErrorKind::kConfig,
                fmt::format("device {} was asked for, but {} finds {} device{}", ordinal,
                            runtime.name, devices, devices == 1 ? "" : "s"));
  }
  check_device(runtime, runtime.use(ordinal), fmt::format("opening device {}", ordinal));
  return {&runtime, Device{DeviceType::kCuda, ordinal}};
}

DeviceStream::DeviceStream(DeviceRef device) : device_(device) {
  check_device(runtime(), runtime().create_stream(device.device.index, &handle_),
               "creating a stream");
}

void DeviceStream::copy(void* to, const void* from, std::size_t bytes, CopyKind kind,
                        const char* what) const {
  if (bytes > 0) check_device(runtime(), runtime().copy(to, from, bytes, kind, handle_), what);
}

void DeviceStream::to_device(void* to, const void* from, std::size_t bytes) const {
  copy(to, from, bytes, CopyKind::kHostToDevice, "copying to the device");
}

void DeviceStream::to_host(void* to, const void* from, std::size_t bytes) const {
  to_host_later(to, from, bytes);
  synchronize();
}

void DeviceStream::to_host_later(void* to, const void* from, std::size_t bytes) const {
  copy(to, from, bytes, CopyKind::kDeviceToHost, "copying from the device");
}

void DeviceStream::on_device(void* to, const void* from, std::size_t bytes) const {
  copy(to, from, bytes, CopyKind::kDeviceToDevice, "copying on the device");
}

void DeviceStream::fill(void* memory, int byte, std::size_t bytes) const {
  if (bytes > 0) {
    check_device(runtime(), runtime().fill(memory, byte, bytes, handle_), "filling device memory");
  }
}

void DeviceStream::synchronize() const {
  check_device(runtime(), runtime().synchronize(handle_), "waiting for the device");
}

void DeviceStream::swap(DeviceStream& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(handle_, other.handle_);
}

void DeviceStream::release() noexcept {
  if (handle_ == nullptr) return;
  runtime().synchronize(handle_);
  runtime().destroy_stream(handle_);
  handle_ = nullptr;
}

DeviceEvent::DeviceEvent(DeviceRef device) : device_(device) {
  check_device(*device.runtime, device.runtime->create_event(device.device.index, &handle_),
               "creating an event");
}

void DeviceEvent::record(const DeviceStream& stream) {
  check_device(*device_.runtime, device_.runtime->record(handle_, stream.handle()),
               "recording an event");
}

void DeviceEvent::hold_back(const DeviceStream& stream) const {
  check_device(*device_.runtime, device_.runtime->wait(stream.handle(), handle_),
               "letting a stream wait for an event");
}

bool DeviceEvent::finished() const {
  bool done = false;
  check_device(*device_.runtime, device_.runtime->finished(handle_, &done), "asking for an event");
  return done;
}

void DeviceEvent::wait() const {
  check_device(*device_.runtime, device_.runtime->await(handle_), "waiting for an event");
}

double DeviceEvent::seconds_since(const DeviceEvent& begin) const {
  float milliseconds = 0.0F;
  check_device(*device_.runtime,
               device_.runtime->milliseconds(begin.handle_, handle_, &milliseconds),
               "asking for the time between events");
  return static_cast<double>(milliseconds) * 1e-3;
}

void DeviceEvent::swap(DeviceEvent& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(handle_, other.handle_);
}

void DeviceEvent::release() noexcept {
  if (handle_ == nullptr) return;
  device_.runtime->destroy_event(handle_);
  handle_ = nullptr;
}

}  // namespace lockstep::core
