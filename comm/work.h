#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

#include "comm/comm_times.h"

namespace lockstep::comm {

class Communicator;

using Deadline = std::chrono::steady_clock::time_point;

// A launched collective. A light handle: copying it copies the reference, dropping it cancels
// nothing (a launched collective is finished, in order, by later calls). Must not outlive its
// communicator. Waiting twice is allowed and costs nothing.
//
// Two conditions can be waited for, and both are needed before memory changes hands:
//   output  this rank's output is complete and may be read
//   input   every other rank has read what it needs of this rank's memory: the input, and the
//           output where peers read that too (in place, all_reduce), may be written or freed
// wait() means both and is the right call unless time matters. A ring of buffers launches from slot
// k, calls wait_output() when it wants the result, and wait_input() before it fills slot k again.
//
// Without a deadline the communicator's timeout counts from the call. Past the deadline:
// Error(kCommunication) naming the rank that has not arrived; the communicator is then aborted.
//
// Of a collective on device memory, "may" is said to the work of a stream and not to the host: a
// wait returns once everything that the communicator's present stream is given later will find the
// condition met (see Communicator, Devices).
class Work {
 public:
  Work() = default;  // nothing to wait for

  void wait();
  void wait(Deadline deadline);
  void wait_output();
  void wait_output(Deadline deadline);
  void wait_input();
  void wait_input(Deadline deadline);

  // Whether the output is complete; does what work can be done without waiting.
  bool done();
  // The same for the input.
  bool input_done();

 private:
  friend class Communicator;
  Work(Communicator& communicator, std::uint64_t id, std::optional<CommKind> kind = {})
      : communicator_(&communicator), id_(id), kind_(kind) {}

  Communicator* communicator_ = nullptr;
  std::uint64_t id_ = 0;
  std::optional<CommKind> kind_;  // under which waits are measured
};

}  // namespace lockstep::comm
