#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/device/device_communicator.h"
#include "comm/device/event_pool.h"
#include "comm/device/pinned_memory.h"

namespace lockstep::comm {

// A communicator for `device` that stands on `host` and keeps its name. With one rank the host
// never waits (SoloCommunicator). With more, collectives on device views go through pinned host
// memory and the host's collective of the same name, so that any host backend gives several ranks
// to one device, or to devices that do not see each other; the bits are the host's.
std::unique_ptr<Communicator> make_staged_communicator(std::unique_ptr<Communicator> host,
                                                       core::DeviceRef device);

// A collective on the device passes four states, each in the order of launches, whenever the host
// comes by (later calls, progress, waits):
//
//   queued     the present stream's place has been noted
//   copied     its input is on its way to a slot of host memory, on a stream of its own
//   launched   the input is there, and the host's collective has been launched
//   returned   that is over, and the result is on its way back, on another stream of its own
//
// A slot serves one collective at a time, so with kSlots of them under way the next one stays
// queued. Collectives on host views pass the same queue without the copies.
class StagedCommunicator final : public DeviceCommunicator {
 public:
  static constexpr std::size_t kSlots = 2;  // as many buckets as gradients have under way

  StagedCommunicator(std::unique_ptr<Communicator> host, core::DeviceRef device);
  ~StagedCommunicator() override;

  std::size_t internal_bytes() const override;

 private:
  // `bytes` bytes at `device` in device memory, and `at` bytes into the slot.
  struct Piece {
    std::byte* device;
    std::size_t at;
    std::size_t bytes;
  };

  struct Operation {
    std::string name;  // for messages: "reduce_scatter (block.7)"
    std::function<Work(std::byte* slot)> launch;
    Work host;  // once launched

    // Of a collective on the device:
    Collective collective = Collective::kBarrier;
    bool on_device = false;
    bool timed = false;
    bool in_place = false;  // parts of the input are output
    std::size_t slot_bytes = 0;
    std::vector<Piece> inputs;
    std::vector<Piece> outputs;
    std::size_t slot = 0;
    core::DeviceEvent ready;  // the present stream at the call
    core::DeviceEvent copied;
    core::DeviceEvent returned;
  };

  struct Slot {
    explicit Slot(const core::DeviceRuntime& runtime) : memory(runtime) {}
    PinnedMemory memory;
    std::uint64_t holder = 0;  // the last operation that it was given to
  };

  std::uint64_t do_all_reduce(core::ConstTensorView input, core::TensorView output, ReduceOp op,
                              std::string_view label) override;
  std::uint64_t do_reduce_scatter(core::ConstTensorView input, core::TensorView output, Output mode,
                                  std::string_view label) override;
  std::uint64_t do_all_gather(core::ConstTensorView input, core::TensorView output,
                              std::string_view label) override;
  std::uint64_t do_broadcast(core::TensorView data, int root, std::string_view label) override;
  std::uint64_t do_all_to_all(core::ConstTensorView input, core::TensorView output,
                              std::string_view label) override;
  std::uint64_t do_barrier(std::string_view label) override;
  void do_wait_output(std::uint64_t id, Deadline deadline) override;
  void do_wait_input(std::uint64_t id, Deadline deadline) override;
  bool do_done(std::uint64_t id) override;
  bool do_input_done(std::uint64_t id) override;
  void do_progress() override;

  Operation make_operation(Collective collective, std::string_view label,
                           const core::ConstTensorView& input, const core::TensorView& output);
  std::uint64_t enqueue(Operation operation);
  Operation& at(std::uint64_t id) { return queue_[id - queue_begin_]; }
  std::uint64_t queue_end() const { return queue_begin_ + queue_.size(); }

  // Does all that can be done without waiting; whether anything was.
  bool advance();
  bool copy_ready();
  bool launch_ready();
  bool return_ready();
  void retire();
  bool is_released(std::uint64_t id);
  void copy(const Piece& piece, std::byte* slot, core::CopyKind kind,
            const core::DeviceStream& stream) const;

  // body(), which may take the host's time, as time in which the present stream stands still.
  template <typename Body>
  void hold_up(Body&& body);
  // Until all operations up to and including `id` have passed `state`, one of the counters below.
  void drive(const std::uint64_t& state, std::uint64_t id, Deadline deadline);
  void wait_for_first(Deadline deadline);
  void wait_for_device(const core::DeviceEvent& event, const Operation& operation,
                       Deadline deadline);

  core::DeviceStream to_host_;
  core::DeviceStream to_device_;
  std::array<std::unique_ptr<Slot>, kSlots> slots_;
  std::size_t next_slot_ = 0;
  EventPool events_;
  // Operations queue_begin_, queue_begin_ + 1, ...; what lies before is over. The others are the
  // operations up to which (exclusive) a state has been reached. Id 0 is over from the beginning.
  std::deque<Operation> queue_;
  std::uint64_t queue_begin_ = 1;
  std::uint64_t copied_ = 1;
  std::uint64_t launched_ = 1;
  std::uint64_t returned_ = 1;
};

}  // namespace lockstep::comm
