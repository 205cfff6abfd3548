#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/flight_recorder.h"
#include "core/device_runtime.h"
#include "tests/support/device_memory.h"
#include "tests/support/device_order.h"
#include "tests/support/device_trace.h"

namespace lockstep::testing {

// The plain stand-in's functions, which tell the recording of the calling thread of every call. To
// a thread that records, an event is finished only when the host has waited for it, or has asked
// for it very often: so the trace has every wait that the slowest device needs.
const core::DeviceRuntime& recording_runtime();

// While it lives, writes down what its thread, a rank, asks of the device: calls of
// recording_runtime(), kernels (with what their ops say that they touch: recorded_ops.h) and
// collectives of NCCL (recorded_nccl.h). All that was given to the device before must be over.
class TraceRecording {
 public:
  // Labels come from the communicator by way of a flight recorder at `flight_path`.
  TraceRecording(DeviceTrace& trace, comm::Communicator& communicator,
                 const std::filesystem::path& flight_path);
  ~TraceRecording();
  TraceRecording(const TraceRecording&) = delete;
  TraceRecording& operator=(const TraceRecording&) = delete;

  void begin_step() { ++step_; }

  // ---- For those who record -------------------------------------------------------------------

  static TraceRecording* of_this_thread();  // null: it records nothing

  void work(CallKind kind, std::string name, std::string label, core::DeviceStreamHandle* stream,
            std::vector<Access> touches);
  void record(core::DeviceEventHandle* event, core::DeviceStreamHandle* stream);
  void wait(core::DeviceStreamHandle* stream, core::DeviceEventHandle* event);
  void synchronize(core::DeviceStreamHandle* stream);
  void await(core::DeviceEventHandle* event);
  bool finished(core::DeviceEventHandle* event);
  // Of an op that is over and has made the calls from `first_call` on.
  void check_writes(const char* op, const MemorySnapshot& before, std::size_t first_call);
  void forget(core::DeviceEventHandle* event);
  const DeviceTrace& trace() const { return trace_; }
  std::size_t ranks() const { return static_cast<std::size_t>(communicator_.world_size()); }
  // Of the collective that the communicator has entered last.
  std::string collective_label() const;

 private:
  int number_of(core::DeviceStreamHandle* stream);
  std::size_t recorded(core::DeviceEventHandle* event) const;
  void add(TraceCall call);

  DeviceTrace& trace_;
  comm::Communicator& communicator_;
  std::string flight_path_;
  comm::FlightRecorder flight_;
  DeviceOrder order_;
  int step_ = 0;
  std::map<core::DeviceStreamHandle*, int> streams_;
  std::map<core::DeviceEventHandle*, std::size_t> events_;  // the call that recorded each last
  std::size_t asked_for_ = TraceCall::kNever;  // the point that the host asks for, again and again
  int asked_ = 0;
};

// While it lives, kernels launched by this thread are those of `op` and touch what it touches. What
// else they have written is found at its end (DeviceTrace::unsaid_writes).
class OpScope {
 public:
  OpScope(const char* op, std::vector<Access> touches);
  ~OpScope();
  OpScope(const OpScope&) = delete;
  OpScope& operator=(const OpScope&) = delete;

  const char* op() const { return op_; }
  const std::vector<Access>& touches() const { return touches_; }

 private:
  const char* op_;
  std::vector<Access> touches_;
  const OpScope* outer_;
  std::size_t first_call_ = 0;
  std::optional<MemorySnapshot> before_;
};

}  // namespace lockstep::testing
