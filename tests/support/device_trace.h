#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

// What one rank asks of its device, call by call, as TraceRecording (trace_recording.h) writes it
// down and DeviceOrder (device_order.h) reads it.
namespace lockstep::testing {

// Bytes [begin, end) of memory, which a piece of work reads, or writes (and perhaps reads too).
struct Access {
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;
  bool writes = false;

  bool overlaps(const Access& other) const { return begin < other.end && other.begin < end; }
};

enum class CallKind {
  kKernel,
  kCopy,
  kFill,
  kCollective,
  kRecord,        // an event on a stream
  kWait,          // a stream waits for an event
  kSynchronize,   // the host waits for a stream
  kAwait,         // the host waits for an event
  kFoundFinished  // the host has asked for an event until it was told that it is finished
};

struct TraceCall {
  static constexpr std::size_t kNever = SIZE_MAX;

  CallKind kind = CallKind::kKernel;
  std::string name{};   // kernel: its own; collective: "reduce_scatter"; copy: "copy to the device"
  std::string label{};  // kernel: the op that launched it; collective: as the communicator got it
  int step = 0;         // TraceRecording::begin_step() calls before it
  int stream = -1;      // on which it is put; -1: none (kAwait, kFoundFinished)
  std::size_t recorded = kNever;  // the kRecord call whose point is waited for; kNever: the event
                                  // was not recorded since the trace began
  std::vector<Access> touches{};  // of work; a collective: what it sends, then what it receives

  // What is put on a stream and touches memory.
  bool is_work() const { return kind <= CallKind::kCollective; }
  bool reads_or_writes(const Access& range) const;
  bool writes(const Access& range) const;
};

// Of one rank, in the order of its calls. Everything given to the device before the first call was
// over by then.
struct DeviceTrace {
  std::vector<TraceCall> calls;
  // Ops whose kernels have written what none of their calls says: "matmul wrote byte 0 of ..."
  std::vector<std::string> unsaid_writes;

  // The first work after call `after` that `accept` likes; calls.size() where there is none.
  template <typename Accept>
  std::size_t next_work(std::size_t after, Accept&& accept) const {
    for (std::size_t i = after + 1; i < calls.size(); ++i)
      if (calls[i].is_work() && accept(calls[i])) return i;
    return calls.size();
  }
  // The last work before call `before` that `accept` likes; calls.size() where there is none.
  template <typename Accept>
  std::size_t last_work(std::size_t before, Accept&& accept) const {
    for (std::size_t i = before; i-- > 0;)
      if (calls[i].is_work() && accept(calls[i])) return i;
    return calls.size();
  }

  // Of a kWait: the stream that is waited for (-1: unknown, from before the trace), and the last
  // work that it was given before that point (calls.size(): none).
  int waited_stream(std::size_t wait) const;
  std::size_t waited_work(std::size_t wait) const;

  // "optimizer_update_runs (kernel optimizer_update), call 812 in step 3, stream 0"
  std::string describe(std::size_t call) const;
  // Of a kWait: "the wait of call 810 in step 3 (of reduce_scatter (block.1), ... for matmul ...)"
  std::string describe_wait(std::size_t call) const;
};

}  // namespace lockstep::testing
