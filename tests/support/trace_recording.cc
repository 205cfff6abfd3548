#include "tests/support/trace_recording.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "comm/flight_log.h"
#include "core/cuda/stand_in/machine.h"

namespace lockstep::testing {

namespace {

using core::CopyKind;
using core::DeviceEventHandle;
using core::DeviceStreamHandle;

// A host that asks so often without doing anything else waits.
constexpr int kAsksThatAreAWait = 1000;

thread_local TraceRecording* recording = nullptr;
thread_local const OpScope* innermost = nullptr;

const core::DeviceRuntime& plain() {
  return core::cuda::stand_in_runtime();
}

Access access_to(const void* memory, std::size_t bytes, bool writes) {
  const auto begin = reinterpret_cast<std::uintptr_t>(memory);
  return {begin, begin + bytes, writes};
}

// ---- Kernels --------------------------------------------------------------------------------

// What the op says of its arguments; and what is behind pointers that it says nothing of, such as
// scratch memory, as far as it may reach.
void launched(const char* kernel, const core::DeviceStream& stream,
              std::span<const core::cuda::LaunchPointer> arguments) {
  if (recording == nullptr) return;
  std::vector<Access> touches;
  if (innermost != nullptr) touches = innermost->touches();
  const std::size_t told = touches.size();
  for (const core::cuda::LaunchPointer& pointer : arguments) {
    const Access at = access_to(pointer.address, 1, pointer.writes);
    if (std::any_of(touches.begin(), touches.begin() + static_cast<std::ptrdiff_t>(told),
                    [&](const Access& access) { return access.overlaps(at); })) {
      continue;
    }
    const Access rest = rest_of_allocation(pointer.address, pointer.writes);
    if (rest.end > rest.begin) touches.push_back(rest);
  }
  recording->work(CallKind::kKernel, kernel, innermost == nullptr ? "" : innermost->op(),
                  stream.handle(), std::move(touches));
}

// ---- The runtime ----------------------------------------------------------------------------

int allocate(int device, std::size_t bytes, void** memory) {
  const int code = plain().allocate(device, bytes, memory);
  if (code == 0) note_allocation(*memory, bytes);
  return code;
}

int release(void* memory) {
  note_release(memory);
  return plain().release(memory);
}

int copy(void* to, const void* from, std::size_t bytes, CopyKind kind, DeviceStreamHandle* stream) {
  if (recording != nullptr) {
    recording->work(CallKind::kCopy,
                    kind == CopyKind::kHostToDevice   ? "copy to the device"
                    : kind == CopyKind::kDeviceToHost ? "copy from the device"
                                                      : "copy on the device",
                    "", stream, {access_to(from, bytes, false), access_to(to, bytes, true)});
  }
  return plain().copy(to, from, bytes, kind, stream);
}

int fill(void* memory, int byte, std::size_t bytes, DeviceStreamHandle* stream) {
  if (recording != nullptr) {
    recording->work(CallKind::kFill, "fill", "", stream, {access_to(memory, bytes, true)});
    if (stream == nullptr) recording->synchronize(stream);
  }
  return plain().fill(memory, byte, bytes, stream);
}

int synchronize(DeviceStreamHandle* stream) {
  if (recording != nullptr) recording->synchronize(stream);
  return plain().synchronize(stream);
}

int destroy_event(DeviceEventHandle* event) {
  if (recording != nullptr) recording->forget(event);
  return plain().destroy_event(event);
}

int record(DeviceEventHandle* event, DeviceStreamHandle* stream) {
  if (recording != nullptr) recording->record(event, stream);
  return plain().record(event, stream);
}

int wait(DeviceStreamHandle* stream, DeviceEventHandle* event) {
  if (recording != nullptr) recording->wait(stream, event);
  return plain().wait(stream, event);
}

int finished(DeviceEventHandle* event, bool* done) {
  const int code = plain().finished(event, done);
  if (code == 0 && recording != nullptr) *done = recording->finished(event);
  return code;
}

int await(DeviceEventHandle* event) {
  if (recording != nullptr) recording->await(event);
  return plain().await(event);
}

}  // namespace

const core::DeviceRuntime& recording_runtime() {
  static const core::DeviceRuntime runtime = [] {
    core::DeviceRuntime r = plain();
    r.name = "recording stand-in";
    r.allocate = allocate;
    r.release = release;
    r.copy = copy;
    r.fill = fill;
    r.synchronize = synchronize;
    r.destroy_event = destroy_event;
    r.record = record;
    r.wait = wait;
    r.finished = finished;
    r.await = await;
    core::cuda::stand_in_settings().observer = launched;
    return r;
  }();
  return runtime;
}

OpScope::OpScope(const char* op, std::vector<Access> touches)
    : op_(op), touches_(std::move(touches)), outer_(std::exchange(innermost, this)) {
  if (recording == nullptr || outer_ != nullptr) return;
  first_call_ = recording->trace().calls.size();
  before_.emplace(touches_);
}

// Ops that others are made of are checked with those.
OpScope::~OpScope() {
  innermost = outer_;
  if (before_) recording->check_writes(op_, *before_, first_call_);
}

// ---- The recording --------------------------------------------------------------------------

TraceRecording::TraceRecording(DeviceTrace& trace, comm::Communicator& communicator,
                               const std::filesystem::path& flight_path)
    : trace_(trace),
      communicator_(communicator),
      flight_path_(flight_path.string()),
      flight_(flight_path_, communicator.rank(), communicator.world_size(), 1) {
  communicator_.record_to(&flight_);
  recording = this;
}

TraceRecording::~TraceRecording() {
  recording = nullptr;
  communicator_.record_to(nullptr);
}

TraceRecording* TraceRecording::of_this_thread() {
  return recording;
}

std::string TraceRecording::collective_label() const {
  const comm::FlightLog log = comm::read_flight_log(flight_path_);
  return log.entries.empty() ? "" : log.entries.back().label;
}

int TraceRecording::number_of(DeviceStreamHandle* stream) {
  return streams_.try_emplace(stream, static_cast<int>(streams_.size())).first->second;
}

std::size_t TraceRecording::recorded(DeviceEventHandle* event) const {
  const auto found = events_.find(event);
  return found == events_.end() ? TraceCall::kNever : found->second;
}

void TraceRecording::add(TraceCall call) {
  call.step = step_;
  if (call.kind != CallKind::kFoundFinished) asked_ = 0;
  order_.add(call);
  trace_.calls.push_back(std::move(call));
}

void TraceRecording::work(CallKind kind, std::string name, std::string label,
                          DeviceStreamHandle* stream, std::vector<Access> touches) {
  add({.kind = kind,
       .name = std::move(name),
       .label = std::move(label),
       .stream = number_of(stream),
       .touches = std::move(touches)});
}

void TraceRecording::record(DeviceEventHandle* event, DeviceStreamHandle* stream) {
  events_[event] = trace_.calls.size();
  add({.kind = CallKind::kRecord, .stream = number_of(stream)});
}

void TraceRecording::wait(DeviceStreamHandle* stream, DeviceEventHandle* event) {
  add({.kind = CallKind::kWait, .stream = number_of(stream), .recorded = recorded(event)});
}

void TraceRecording::synchronize(DeviceStreamHandle* stream) {
  add({.kind = CallKind::kSynchronize, .stream = number_of(stream)});
}

void TraceRecording::await(DeviceEventHandle* event) {
  add({.kind = CallKind::kAwait, .recorded = recorded(event)});
}

bool TraceRecording::finished(DeviceEventHandle* event) {
  const std::size_t point = recorded(event);
  if (point == TraceCall::kNever || order_.host_knows(point)) return true;
  asked_ = point == asked_for_ ? asked_ + 1 : 1;
  asked_for_ = point;
  if (asked_ < kAsksThatAreAWait) return false;
  add({.kind = CallKind::kFoundFinished, .recorded = point});
  return true;
}

void TraceRecording::check_writes(const char* op, const MemorySnapshot& before,
                                  std::size_t first_call) {
  std::vector<Access> said;
  for (std::size_t i = first_call; i < trace_.calls.size(); ++i)
    said.insert(said.end(), trace_.calls[i].touches.begin(), trace_.calls[i].touches.end());
  for (const std::string& place : before.changed_outside(said))
    trace_.unsaid_writes.push_back(fmt::format("{} wrote {}", op, place));
}

void TraceRecording::forget(DeviceEventHandle* event) {
  events_.erase(event);
}

}  // namespace lockstep::testing
