#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include "core/device.h"

// What Lockstep asks of the runtime library of a device, as a table of function pointers: the CUDA
// module fills one with the CUDA runtime, tests with a device that they imitate over host memory.
// So that nothing else is compiled against, or linked with, that library.
namespace lockstep::core {

struct DeviceStreamHandle;  // opaque: the library's own
struct DeviceEventHandle;

// What a call that failed means to whoever asked.
enum class DeviceFailure {
  kOutOfMemory,    // of the device, or of pinned host memory
  kNoDevice,       // there is none, or not as many
  kDriver,         // no driver, or one too old for the library
  kNoKernelImage,  // the module holds no code for this device's architecture
  kOther           // a fault of a kernel, of the hardware or of Lockstep
};

struct DeviceProperties {
  char name[256] = {};
  int major = 0;  // compute capability
  int minor = 0;
  int multiprocessors = 0;
  std::size_t total_memory = 0;         // bytes
  std::size_t shared_memory_limit = 0;  // bytes that one block may ask for
};

enum class CopyKind { kHostToDevice, kDeviceToHost, kDeviceToDevice };

// Every function but error_text and failure_of returns 0, or a code that those two explain. Work on
// one stream runs in the order of the calls; a host pointer given to an asynchronous copy must stay
// valid until the stream has come there. `device` is an ordinal; the calling thread works with it
// from then on. Functions may be called from any thread.
struct DeviceRuntime {
  const char* name;  // "CUDA"

  int (*count)(int* devices);
  int (*properties)(int device, DeviceProperties* properties);
  int (*use)(int device);  // makes it the calling thread's
  int (*memory_info)(int device, std::size_t* free, std::size_t* total);

  int (*allocate)(int device, std::size_t bytes, void** memory);  // aligned to 256 bytes
  int (*release)(void* memory);
  int (*allocate_pinned)(std::size_t bytes,
                         void** memory);  // host memory that copies reach directly
  int (*release_pinned)(void* memory);

  int (*copy)(void* to, const void* from, std::size_t bytes, CopyKind kind,
              DeviceStreamHandle* stream);
  int (*fill)(void* memory, int byte, std::size_t bytes, DeviceStreamHandle* stream);

  int (*create_stream)(int device, DeviceStreamHandle** stream);
  int (*destroy_stream)(DeviceStreamHandle* stream);
  int (*synchronize)(DeviceStreamHandle* stream);  // the host waits; reports what went wrong before
  int (*synchronize_device)(int device);  // the same for all work that this process has given to it

  int (*create_event)(int device, DeviceEventHandle** event);
  int (*destroy_event)(DeviceEventHandle* event);
  int (*record)(DeviceEventHandle* event, DeviceStreamHandle* stream);
  int (*wait)(DeviceStreamHandle* stream, DeviceEventHandle* event);  // the stream waits
  int (*finished)(DeviceEventHandle* event, bool* finished);
  int (*await)(DeviceEventHandle* event);  // the host waits
  int (*milliseconds)(DeviceEventHandle* begin, DeviceEventHandle* end, float* milliseconds);

  const char* (*error_text)(int code);
  DeviceFailure (*failure_of)(int code);
};

// Returns when code is 0. Throws Error otherwise: kOutOfMemory for memory, kConfig where the
// machine lacks what the run asks for, kInternal for anything else; "what: library error text".
void check_device(const DeviceRuntime& runtime, int code, std::string_view what);

// Why no device of this runtime can be used ("no CUDA device: no driver is installed ..."), or
// nothing when there is at least one.
std::string why_no_device(const DeviceRuntime& runtime);

// A runtime and one of its devices: where memory comes from and work goes to. Without a runtime it
// is the CPU.
struct DeviceRef {
  const DeviceRuntime* runtime = nullptr;
  Device device{};

  bool on_cpu() const { return runtime == nullptr; }
};

// Throws Error(kConfig) saying what there is, when the runtime has no device of this ordinal.
DeviceRef open_device(const DeviceRuntime& runtime, int ordinal);

// Owning, move-only: an order of work on one device. Destroying it waits for the work.
class DeviceStream {
 public:
  DeviceStream() = default;  // none
  explicit DeviceStream(DeviceRef device);
  ~DeviceStream() { release(); }
  DeviceStream(DeviceStream&& other) noexcept { swap(other); }
  DeviceStream& operator=(DeviceStream&& other) noexcept {
    DeviceStream moved(std::move(other));
    swap(moved);
    return *this;
  }

  DeviceStreamHandle* handle() const { return handle_; }
  const DeviceRuntime& runtime() const { return *device_.runtime; }
  Device device() const { return device_.device; }

  // Copies of bytes between host and device memory. to_host returns when the bytes are there (and
  // so everything before on this stream is done); the others may return earlier. to_host_later is
  // for pinned memory, from which nothing may be read before the stream has come there.
  void to_device(void* to, const void* from, std::size_t bytes) const;
  void to_host(void* to, const void* from, std::size_t bytes) const;
  void to_host_later(void* to, const void* from, std::size_t bytes) const;
  void on_device(void* to, const void* from, std::size_t bytes) const;
  void fill(void* memory, int byte, std::size_t bytes) const;
  void synchronize() const;

 private:
  void swap(DeviceStream& other) noexcept;
  void release() noexcept;
  void copy(void* to, const void* from, std::size_t bytes, CopyKind kind, const char* what) const;

  DeviceRef device_;
  DeviceStreamHandle* handle_ = nullptr;
};

// Owning, move-only: a point in the work of a stream.
class DeviceEvent {
 public:
  DeviceEvent() = default;
  explicit DeviceEvent(DeviceRef device);
  ~DeviceEvent() { release(); }
  DeviceEvent(DeviceEvent&& other) noexcept { swap(other); }
  DeviceEvent& operator=(DeviceEvent&& other) noexcept {
    DeviceEvent moved(std::move(other));
    swap(moved);
    return *this;
  }

  void record(const DeviceStream& stream);
  void hold_back(const DeviceStream& stream) const;  // its later work waits for the recorded point
  bool finished() const;
  void wait() const;                                     // the host waits for the recorded point
  double seconds_since(const DeviceEvent& begin) const;  // both finished

 private:
  void swap(DeviceEvent& other) noexcept;
  void release() noexcept;

  DeviceRef device_;
  DeviceEventHandle* handle_ = nullptr;
};

}  // namespace lockstep::core
