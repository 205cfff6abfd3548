#include "core/cuda/stand_in/memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "core/cuda/stand_in/machine.h"
#include "core/error.h"

// The runtime functions of the stand-in: memory with guards around it, and streams whose work is
// done when the call returns.
namespace lockstep::core {

struct DeviceStreamHandle {
  int device;
};

struct DeviceEventHandle {
  int device;
  bool recorded = false;
  std::chrono::steady_clock::time_point time{};
};

namespace cuda {

namespace {

constexpr std::size_t kGuard = 256;  // bytes on either side of an allocation
constexpr int kGuardByte = 0xA7;

struct Allocation {
  std::size_t bytes;
  int device;
};

struct Memory {
  std::mutex mutex;
  std::map<std::uintptr_t, Allocation> allocations;
  std::map<int, std::size_t> used;
};

Memory& memory() {
  static Memory instance;
  return instance;
}

std::uintptr_t address_of(const void* p) {
  return reinterpret_cast<std::uintptr_t>(p);
}

// The allocation that holds [p, p + bytes) or touches it; end() when none does.
auto find(Memory& m, const void* p, std::size_t bytes) {
  auto after = m.allocations.lower_bound(address_of(p) + std::max<std::size_t>(bytes, 1));
  if (after == m.allocations.begin()) return m.allocations.end();
  --after;
  return after->first + after->second.bytes > address_of(p) ? after : m.allocations.end();
}

bool within(const void* p, std::size_t bytes) {
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  const auto found = find(m, p, bytes);
  return found != m.allocations.end() && address_of(p) >= found->first &&
         address_of(p) + bytes <= found->first + found->second.bytes;
}

bool outside(const void* p, std::size_t bytes) {
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  return find(m, p, bytes) == m.allocations.end();
}

bool guards_intact(std::uintptr_t begin, std::size_t bytes) {
  const auto* p = reinterpret_cast<const unsigned char*>(begin);
  const auto intact = [](unsigned char c) { return c == kGuardByte; };
  return std::all_of(p - kGuard, p, intact) && std::all_of(p + bytes, p + bytes + kGuard, intact);
}

int check_ordinal(int device) {
  return device >= 0 && device < stand_in_settings().devices ? 0 : kStandInNoDevice;
}

int count(int* devices) {
  *devices = stand_in_settings().devices;
  if (stand_in_settings().failure_of_count != 0) return stand_in_settings().failure_of_count;
  return *devices > 0 ? 0 : kStandInNoDevice;
}

int properties(int device, DeviceProperties* p) {
  if (const int code = check_ordinal(device); code != 0) return code;
  *p = {};
  std::strncpy(p->name, "stand-in over host memory", sizeof(p->name) - 1);
  p->major = 9;
  p->multiprocessors = 4;
  p->total_memory = stand_in_settings().memory_bytes;
  p->shared_memory_limit = 227 * 1024;
  return 0;
}

int use(int device) {
  return check_ordinal(device);
}

int memory_info(int device, std::size_t* free, std::size_t* total) {
  if (const int code = check_ordinal(device); code != 0) return code;
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  *total = stand_in_settings().memory_bytes;
  *free = *total - std::min(*total, m.used[device]);
  return 0;
}

int allocate(int device, std::size_t bytes, void** result) {
  if (const int code = check_ordinal(device); code != 0) return code;
  record_call(fmt::format("allocate {} bytes", bytes));
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  if (m.used[device] + bytes > stand_in_settings().memory_bytes) return kStandInOutOfMemory;
  void* p = nullptr;
  if (posix_memalign(&p, 256, bytes + 2 * kGuard) != 0) return kStandInOutOfMemory;
  auto* begin = static_cast<std::byte*>(p) + kGuard;
  std::memset(p, kGuardByte, bytes + 2 * kGuard);
  std::memset(begin, 0xFF, bytes);
  m.allocations[address_of(begin)] = {bytes, device};
  m.used[device] += bytes;
  *result = begin;
  return 0;
}

int release(void* p) {
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  const auto found = m.allocations.find(address_of(p));
  if (found == m.allocations.end()) return kStandInWrongMemory;
  m.used[found->second.device] -= found->second.bytes;
  m.allocations.erase(found);
  std::free(static_cast<std::byte*>(p) - kGuard);
  return 0;
}

int allocate_pinned(std::size_t bytes, void** result) {
  *result = std::malloc(bytes);
  return *result == nullptr ? kStandInOutOfMemory : 0;
}

int release_pinned(void* p) {
  std::free(p);
  return 0;
}

int copy(void* to, const void* from, std::size_t bytes, CopyKind kind, DeviceStreamHandle*) {
  const bool to_device = kind != CopyKind::kDeviceToHost;
  const bool from_device = kind != CopyKind::kHostToDevice;
  record_call(fmt::format("copy {} bytes {}", bytes,
                          !from_device ? "to the device"
                          : to_device  ? "on the device"
                                       : "from the device"));
  if (!(to_device ? within(to, bytes) : outside(to, bytes))) return kStandInWrongMemory;
  if (!(from_device ? within(from, bytes) : outside(from, bytes))) return kStandInWrongMemory;
  std::memmove(to, from, bytes);
  return 0;
}

int fill(void* p, int byte, std::size_t bytes, DeviceStreamHandle*) {
  record_call(fmt::format("fill {} bytes", bytes));
  if (!within(p, bytes)) return kStandInWrongMemory;
  std::memset(p, byte, bytes);
  return 0;
}

int create_stream(int device, DeviceStreamHandle** stream) {
  if (const int code = check_ordinal(device); code != 0) return code;
  *stream = new DeviceStreamHandle{device};
  return 0;
}

int destroy_stream(DeviceStreamHandle* stream) {
  delete stream;
  return 0;
}

int synchronize(DeviceStreamHandle*) {
  record_call("synchronize");
  return 0;
}

int synchronize_device(int device) {
  record_call("synchronize the device");
  return check_ordinal(device);
}

int create_event(int device, DeviceEventHandle** event) {
  if (const int code = check_ordinal(device); code != 0) return code;
  *event = new DeviceEventHandle{device};
  return 0;
}

int destroy_event(DeviceEventHandle* event) {
  delete event;
  return 0;
}

int record(DeviceEventHandle* event, DeviceStreamHandle* stream) {
  if (event->device != stream->device) return kStandInWrongMemory;
  record_call("record");
  event->recorded = true;
  event->time = std::chrono::steady_clock::now();
  return 0;
}

int wait(DeviceStreamHandle*, DeviceEventHandle* event) {
  record_call(event->recorded ? "wait" : "wait for an event that was never recorded");
  return 0;
}

int finished(DeviceEventHandle*, bool* done) {
  *done = true;
  return 0;
}

int await(DeviceEventHandle* event) {
  record_call(event->recorded ? "await" : "await an event that was never recorded");
  return 0;
}

int milliseconds(DeviceEventHandle* begin, DeviceEventHandle* end, float* result) {
  if (!begin->recorded || !end->recorded) return kStandInWrongMemory;
  *result = std::chrono::duration<float, std::milli>(end->time - begin->time).count();
  return 0;
}

const char* error_text(int code) {
  switch (code) {
    case kStandInOutOfMemory:
      return "out of memory";
    case kStandInNoDevice:
      return "no such device";
    case kStandInOldDriver:
      return "the driver is too old";
    case kStandInWrongMemory:
      return "an address in the wrong memory";
    default:
      return "unknown code";
  }
}

DeviceFailure failure_of(int code) {
  switch (code) {
    case kStandInOutOfMemory:
      return DeviceFailure::kOutOfMemory;
    case kStandInNoDevice:
      return DeviceFailure::kNoDevice;
    case kStandInOldDriver:
      return DeviceFailure::kDriver;
    default:
      return DeviceFailure::kOther;
  }
}

}  // namespace

StandInSettings& stand_in_settings() {
  static StandInSettings settings;
  return settings;
}

void record_call(const std::string& line) {
  if (stand_in_settings().record != nullptr) stand_in_settings().record->push_back(line);
}

void check_guards(const char* kernel) {
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  for (const auto& [begin, allocation] : m.allocations) {
    if (guards_intact(begin, allocation.bytes)) continue;
    std::memset(reinterpret_cast<void*>(begin - kGuard), kGuardByte, kGuard);
    std::memset(reinterpret_cast<void*>(begin + allocation.bytes), kGuardByte, kGuard);
    throw Error(ErrorKind::kInternal,
                fmt::format("kernel {}: wrote outside an allocation of {} bytes", kernel,
                            allocation.bytes));
  }
}

void check_device_range(const void* p, std::size_t bytes) {
  if (bytes == 0 || within(p, bytes)) return;
  throw Error(ErrorKind::kInternal,
              fmt::format("an operand of {} bytes does not lie in device memory", bytes));
}

const DeviceRuntime& stand_in_runtime() {
  static constexpr DeviceRuntime kRuntime = {
      .name = "stand-in",
      .count = count,
      .properties = properties,
      .use = use,
      .memory_info = memory_info,
      .allocate = allocate,
      .release = release,
      .allocate_pinned = allocate_pinned,
      .release_pinned = release_pinned,
      .copy = copy,
      .fill = fill,
      .create_stream = create_stream,
      .destroy_stream = destroy_stream,
      .synchronize = synchronize,
      .synchronize_device = synchronize_device,
      .create_event = create_event,
      .destroy_event = destroy_event,
      .record = record,
      .wait = wait,
      .finished = finished,
      .await = await,
      .milliseconds = milliseconds,
      .error_text = error_text,
      .failure_of = failure_of,
  };
  return kRuntime;
}

}  // namespace cuda
}  // namespace lockstep::core
