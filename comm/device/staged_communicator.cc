#include "comm/device/staged_communicator.h"

#include <algorithm>
#include <utility>

#include "comm/device/solo_communicator.h"
#include "comm/exchange/backoff.h"
#include "core/check.h"

namespace lockstep::comm {

using core::ConstTensorView;
using core::TensorView;

namespace {

constexpr std::size_t kAlignment = 64;  // of a second view in a slot

bool on_host(const ConstTensorView& view) {
  return view.device().type == core::DeviceType::kCpu;
}

std::byte* bytes_of(const ConstTensorView& view) {
  return static_cast<std::byte*>(const_cast<void*>(view.raw()));
}

bool overlap(const ConstTensorView& a, const ConstTensorView& b) {
  const std::less<const std::byte*> before;
  return before(bytes_of(a), bytes_of(b) + b.bytes()) &&
         before(bytes_of(b), bytes_of(a) + a.bytes());
}

// A host view like `view`.
TensorView at_host(std::byte* data, const ConstTensorView& view) {
  return {data, view.dtype(), {view.elements()}};
}

}  // namespace

std::unique_ptr<Communicator> make_staged_communicator(std::unique_ptr<Communicator> host,
                                                       core::DeviceRef device) {
  if (host->world_size() == 1) return std::make_unique<SoloCommunicator>(std::move(host), device);
  return std::make_unique<StagedCommunicator>(std::move(host), device);
}

StagedCommunicator::StagedCommunicator(std::unique_ptr<Communicator> host, core::DeviceRef device)
    : DeviceCommunicator(host->backend(), std::move(host), device),
      to_host_(device),
      to_device_(device),
      events_(device) {
  for (auto& slot : slots_)
    slot = std::make_unique<Slot>(*device.runtime);
}

StagedCommunicator::~StagedCommunicator() {
  // Neither a peer nor a copy may outlive the slots. What fails here has been told, or is told by a
  // peer that still waits.
  try {
    const Deadline deadline = default_deadline();
    for (std::uint64_t id = queue_begin_; id < launched_; ++id)
      at(id).host.wait_input(deadline);
  } catch (const core::Error&) {
    host().abort(core::ErrorKind::kCommunication, "left in the middle of a collective");
  }
  device_ref().runtime->synchronize(to_host_.handle());
  device_ref().runtime->synchronize(to_device_.handle());
}

std::size_t StagedCommunicator::internal_bytes() const {
  std::size_t bytes = DeviceCommunicator::internal_bytes();
  for (const auto& slot : slots_)
    bytes += slot->memory.bytes();
  return bytes;
}

// ---- The collectives ------------------------------------------------------------------------
// Each lies in its slot as in place as it can, so that a slot is as large as the larger view.

StagedCommunicator::Operation StagedCommunicator::make_operation(Collective collective,
                                                                 std::string_view label,
                                                                 const ConstTensorView& input,
                                                                 const TensorView& output) {
  Operation op;
  op.name = fmt::format("{} ({})", name_of(collective), label);
  op.collective = collective;
  op.on_device = !on_host(input);
  op.in_place = overlap(input, output);
  op.slot_bytes = std::max(input.bytes(), output.bytes());
  return op;
}

std::uint64_t StagedCommunicator::do_all_reduce(ConstTensorView input, TensorView output,
                                                ReduceOp reduce, std::string_view label) {
  Operation op = make_operation(Collective::kAllReduce, label, input, output);
  op.inputs = {{bytes_of(input), 0, input.bytes()}};
  op.outputs = {{bytes_of(output), 0, output.bytes()}};
  op.launch = [this, input, output, reduce, label = std::string(label)](std::byte* slot) {
    if (slot == nullptr) return host().all_reduce(input, output, reduce, label);
    const TensorView staged = at_host(slot, input);
    return host().all_reduce(staged, staged, reduce, label);
  };
  return enqueue(std::move(op));
}

std::uint64_t StagedCommunicator::do_reduce_scatter(ConstTensorView input, TensorView output,
                                                    Output mode, std::string_view label) {
  Operation op = make_operation(Collective::kReduceScatter, label, input, output);
  const std::size_t own = output.bytes() * static_cast<std::size_t>(rank());
  op.inputs = {{bytes_of(input), 0, input.bytes()}};
  op.outputs = {{bytes_of(output), own, output.bytes()}};
  op.launch = [this, input, output, mode, own, label = std::string(label)](std::byte* slot) {
    if (slot == nullptr) return host().reduce_scatter(input, output, mode, label);
    return host().reduce_scatter(at_host(slot, input), at_host(slot + own, output), mode, label);
  };
  return enqueue(std::move(op));
}

std::uint64_t StagedCommunicator::do_all_gather(ConstTensorView input, TensorView output,
                                                std::string_view label) {
  Operation op = make_operation(Collective::kAllGather, label, input, output);
  const std::size_t own = input.bytes() * static_cast<std::size_t>(rank());
  const std::size_t behind = own + input.bytes();
  op.inputs = {{bytes_of(input), own, input.bytes()}};
  op.outputs = {{bytes_of(output), 0, output.bytes()}};
  if (op.in_place) {  // its own part is there
    op.outputs = {{bytes_of(output), 0, own},
                  {bytes_of(output) + behind, behind, output.bytes() - behind}};
  }
  op.launch = [this, input, output, own, label = std::string(label)](std::byte* slot) {
    if (slot == nullptr) return host().all_gather(input, output, label);
    return host().all_gather(at_host(slot + own, input), at_host(slot, output), label);
  };
  return enqueue(std::move(op));
}

std::uint64_t StagedCommunicator::do_broadcast(TensorView data, int root, std::string_view label) {
  Operation op = make_operation(Collective::kBroadcast, label, data, data);
  (rank() == root ? op.inputs : op.outputs).assign(1, {bytes_of(data), 0, data.bytes()});
  op.launch = [this, data, root, label = std::string(label)](std::byte* slot) {
    return host().broadcast(slot == nullptr ? data : at_host(slot, data), root, label);
  };
  return enqueue(std::move(op));
}

std::uint64_t StagedCommunicator::do_all_to_all(ConstTensorView input, TensorView output,
                                                std::string_view label) {
  Operation op = make_operation(Collective::kAllToAll, label, input, output);
  const std::size_t second = (input.bytes() + kAlignment - 1) / kAlignment * kAlignment;
  op.slot_bytes = second + output.bytes();
  op.inputs = {{bytes_of(input), 0, input.bytes()}};
  op.outputs = {{bytes_of(output), second, output.bytes()}};
  op.launch = [this, input, output, second, label = std::string(label)](std::byte* slot) {
    if (slot == nullptr) return host().all_to_all(input, output, label);
    return host().all_to_all(at_host(slot, input), at_host(slot + second, output), label);
  };
  return enqueue(std::move(op));
}

// The host's barrier blocks, so what was launched before must be launched there first.
std::uint64_t StagedCommunicator::do_barrier(std::string_view label) {
  drive(launched_, queue_end() - 1, default_deadline());
  host().barrier(label);
  return 0;
}

// ---- The queue ------------------------------------------------------------------------------

template <typename Body>
void StagedCommunicator::hold_up(Body&& body) {
  if (timer() == nullptr || stream_if_any() == nullptr) {
    body();
  } else {
    timer()->stand_still(*stream_if_any(), body);
  }
}

std::uint64_t StagedCommunicator::enqueue(Operation operation) {
  if (operation.on_device) operation.ready = events_.take_recorded(present_stream());
  if (operation.on_device && timer() != nullptr) {
    timer()->begin(operation.collective, present_stream());
    operation.timed = true;
  }
  queue_.push_back(std::move(operation));
  const std::uint64_t id = queue_end() - 1;
  if (at(id).on_device) {
    hold_up([this] { advance(); });
  } else {
    advance();
  }
  return id;
}

bool StagedCommunicator::advance() {
  host().progress();  // throws once the communicator has failed
  bool moved = copy_ready();
  moved = launch_ready() || moved;
  moved = return_ready() || moved;
  retire();
  return moved;
}

void StagedCommunicator::copy(const Piece& piece, std::byte* slot, core::CopyKind kind,
                              const core::DeviceStream& stream) const {
  if (piece.bytes == 0) return;
  const core::DeviceRuntime& runtime = stream.runtime();
  const bool back = kind == core::CopyKind::kHostToDevice;
  std::byte* at = slot + piece.at;
  core::check_device(runtime,
                     runtime.copy(back ? piece.device : at, back ? at : piece.device, piece.bytes,
                                  kind, stream.handle()),
                     "copying between the device and staging");
}

bool StagedCommunicator::copy_ready() {
  bool moved = false;
  for (; copied_ < queue_end(); ++copied_, moved = true) {
    Operation& op = at(copied_);
    if (!op.on_device) continue;
    Slot& slot = *slots_[next_slot_];
    if (!is_released(slot.holder)) break;
    slot.memory.reserve(std::max<std::size_t>(op.slot_bytes, 1));
    slot.holder = copied_;
    op.slot = next_slot_;
    next_slot_ = (next_slot_ + 1) % kSlots;
    op.ready.hold_back(to_host_);
    for (const Piece& piece : op.inputs)
      copy(piece, slot.memory.data(), core::CopyKind::kDeviceToHost, to_host_);
    op.copied = events_.take_recorded(to_host_);
  }
  return moved;
}

bool StagedCommunicator::launch_ready() {
  bool moved = false;
  for (; launched_ < copied_; ++launched_, moved = true) {
    Operation& op = at(launched_);
    if (op.on_device && !op.copied.finished()) break;
    op.host = op.launch(op.on_device ? slots_[op.slot]->memory.data() : nullptr);
  }
  return moved;
}

bool StagedCommunicator::return_ready() {
  bool moved = false;
  for (; returned_ < launched_; ++returned_, moved = true) {
    Operation& op = at(returned_);
    if (!op.host.done()) break;
    if (!op.on_device) continue;
    for (const Piece& piece : op.outputs)
      copy(piece, slots_[op.slot]->memory.data(), core::CopyKind::kHostToDevice, to_device_);
    if (op.timed) timer()->end(to_device_);
    op.returned = events_.take_recorded(to_device_);
  }
  return moved;
}

// Whether neither peers nor the device need its memory any more, slot included.
bool StagedCommunicator::is_released(std::uint64_t id) {
  if (id < queue_begin_) return true;
  if (id >= returned_) return false;
  Operation& op = at(id);
  return op.host.input_done() && (!op.on_device || op.returned.finished());
}

void StagedCommunicator::retire() {
  while (!queue_.empty() && is_released(queue_begin_)) {
    Operation& op = queue_.front();
    if (op.on_device) {
      for (core::DeviceEvent* used : {&op.ready, &op.copied, &op.returned})
        events_.give(std::move(*used));
    }
    queue_.pop_front();
    ++queue_begin_;
  }
}

// ---- Waiting --------------------------------------------------------------------------------

void StagedCommunicator::drive(const std::uint64_t& state, std::uint64_t id, Deadline deadline) {
  while (state <= id) {
    if (!advance()) wait_for_first(deadline);
  }
}

// Waits for whatever holds up the first operation that has not returned.
void StagedCommunicator::wait_for_first(Deadline deadline) {
  Operation& first = at(returned_);
  if (returned_ < launched_) {
    first.host.wait_output(deadline);
  } else if (returned_ < copied_) {
    wait_for_device(first.copied, first, deadline);
  } else {
    // It has no slot; whoever holds the next one has returned.
    Operation& holder = at(slots_[next_slot_]->holder);
    holder.host.wait_input(deadline);
    wait_for_device(holder.returned, holder, deadline);
  }
}

void StagedCommunicator::wait_for_device(const core::DeviceEvent& event, const Operation& operation,
                                         Deadline deadline) {
  const Deadline begin = std::chrono::steady_clock::now();
  Backoff backoff(true);
  while (!event.finished()) {
    backoff.pause();
    if (!backoff.time_to_check()) continue;
    host().progress();
    const Deadline now = std::chrono::steady_clock::now();
    if (now < deadline) continue;
    host().abort(
        core::ErrorKind::kCommunication,
        fmt::format("{} has not come to {} for {:.3g} s: what was given to it before takes "
                    "longer, or hangs",
                    core::to_string(device()), operation.name,
                    std::chrono::duration<double>(now - begin).count()));
    host().progress();
  }
}

void StagedCommunicator::do_wait_output(std::uint64_t id, Deadline deadline) {
  if (id < queue_begin_) return;
  if (!at(id).on_device) {
    drive(returned_, id, deadline);
    return;
  }
  hold_up([&] {
    drive(returned_, id, deadline);
    if (id >= queue_begin_) at(id).returned.hold_back(present_stream());
  });
}

void StagedCommunicator::do_wait_input(std::uint64_t id, Deadline deadline) {
  if (id < queue_begin_) return;
  if (at(id).on_device && at(id).in_place) {
    do_wait_output(id, deadline);
    return;
  }
  if (!at(id).on_device) {
    drive(launched_, id, deadline);
    if (id >= queue_begin_) at(id).host.wait_input(deadline);
    return;
  }
  hold_up([&] {
    drive(copied_, id, deadline);
    if (id >= queue_begin_) at(id).copied.hold_back(present_stream());
  });
}

bool StagedCommunicator::do_done(std::uint64_t id) {
  advance();
  if (id < queue_begin_) return true;
  return id < returned_ && (!at(id).on_device || at(id).returned.finished());
}

bool StagedCommunicator::do_input_done(std::uint64_t id) {
  if (id >= queue_begin_ && at(id).on_device && at(id).in_place) return do_done(id);
  advance();
  if (id < queue_begin_) return true;
  if (at(id).on_device) return id < copied_ && at(id).copied.finished();
  return id < launched_ && at(id).host.input_done();
}

void StagedCommunicator::do_progress() {
  hold_up([this] {
    while (advance()) {
    }
  });
}

}  // namespace lockstep::comm
