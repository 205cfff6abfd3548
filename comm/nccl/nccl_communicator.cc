#include "comm/nccl/nccl_communicator.h"

#include <array>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "comm/exchange/backoff.h"
#include "core/check.h"

namespace lockstep::comm {

using core::ConstTensorView;
using core::DType;
using core::ErrorKind;
using core::TensorView;

namespace {

bool on_host(const ConstTensorView& view) {
  return view.device().type == core::DeviceType::kCpu;
}

nccl::DataType type_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return nccl::kFloat32;
    case DType::kBF16:
      return nccl::kBfloat16;
    case DType::kF16:
      return nccl::kFloat16;
    case DType::kF64:
      return nccl::kFloat64;
    case DType::kI32:
      return nccl::kInt32;
    case DType::kI64:
      return nccl::kInt64;
    case DType::kU32:
      return nccl::kUint32;
    case DType::kU8:
    case DType::kU16:  // which NCCL lacks; nothing reduces it, so it travels as bytes
      return nccl::kUint8;
  }
  return nccl::kUint8;
}

std::size_t count_of(DType dtype, std::int64_t elements) {
  return static_cast<std::size_t>(elements) * (dtype == DType::kU16 ? 2 : 1);
}

nccl::RedOp op_of(ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
      return nccl::kSum;
    case ReduceOp::kMax:
      return nccl::kMax;
    case ReduceOp::kMin:
      return nccl::kMin;
  }
  return nccl::kSum;
}

Entry entry_of(Collective collective, const ConstTensorView& input, std::int64_t count,
               std::string_view label) {
  return {.collective = collective,
          .dtype = input.dtype(),
          .count = static_cast<std::uint64_t>(count),
          .label = label,
          .input_bytes = input.bytes()};
}

}  // namespace

void NcclCommunicator::record_to(FlightRecorder* recorder) {
  const std::lock_guard lock(host_mutex_);
  DeviceCommunicator::record_to(recorder);
}

// ---- The collectives ------------------------------------------------------------------------

std::uint64_t NcclCommunicator::do_all_reduce(ConstTensorView input, TensorView output, ReduceOp op,
                                              std::string_view label) {
  if (on_host(input)) {
    return with_host([&] { return works_.add(host().all_reduce(input, output, op, label)); });
  }
  Entry entry = entry_of(Collective::kAllReduce, input, input.elements(), label);
  entry.op = op;
  return launch(entry, [&](nccl::Comm* comm) {
    return api_.all_reduce(input.raw(), output.raw(), count_of(input.dtype(), input.elements()),
                           type_of(input.dtype()), op_of(op), comm, stream_.handle());
  });
}

std::uint64_t NcclCommunicator::do_reduce_scatter(ConstTensorView input, TensorView output,
                                                  Output mode, std::string_view label) {
  if (on_host(input)) {
    return with_host([&] { return works_.add(host().reduce_scatter(input, output, mode, label)); });
  }
  const Entry entry = entry_of(Collective::kReduceScatter, input, output.elements(), label);
  return launch(entry, [&](nccl::Comm* comm) {
    return api_.reduce_scatter(input.raw(), output.raw(),
                               count_of(output.dtype(), output.elements()), type_of(input.dtype()),
                               nccl::kSum, comm, stream_.handle());
  });
}

std::uint64_t NcclCommunicator::do_all_gather(ConstTensorView input, TensorView output,
                                              std::string_view label) {
  if (on_host(input)) {
    return with_host([&] { return works_.add(host().all_gather(input, output, label)); });
  }
  const Entry entry = entry_of(Collective::kAllGather, input, input.elements(), label);
  return launch(entry, [&](nccl::Comm* comm) {
    return api_.all_gather(input.raw(), output.raw(), count_of(input.dtype(), input.elements()),
                           type_of(input.dtype()), comm, stream_.handle());
  });
}

std::uint64_t NcclCommunicator::do_broadcast(TensorView data, int root, std::string_view label) {
  if (on_host(data)) {
    return with_host([&] { return works_.add(host().broadcast(data, root, label)); });
  }
  Entry entry = entry_of(Collective::kBroadcast, data, data.elements(), label);
  entry.root = root;
  return launch(entry, [&](nccl::Comm* comm) {
    return api_.broadcast(data.raw(), data.raw(), count_of(data.dtype(), data.elements()),
                          type_of(data.dtype()), root, comm, stream_.handle());
  });
}

std::uint64_t NcclCommunicator::do_all_to_all(ConstTensorView input, TensorView output,
                                              std::string_view label) {
  if (on_host(input)) {
    return with_host([&] { return works_.add(host().all_to_all(input, output, label)); });
  }
  const std::int64_t part = input.elements() / world_size();
  const std::size_t part_bytes = input.bytes() / static_cast<std::size_t>(world_size());
  const std::size_t count = count_of(input.dtype(), part);
  const nccl::DataType type = type_of(input.dtype());
  return launch(entry_of(Collective::kAllToAll, input, part, label), [&](nccl::Comm* comm) {
    nccl::Result result = api_.group_start();
    if (result != nccl::kSuccess) return result;
    for (int r = 0; result == nccl::kSuccess && r < world_size(); ++r) {
      const std::size_t at = part_bytes * static_cast<std::size_t>(r);
      result = api_.send(static_cast<const std::byte*>(input.raw()) + at, count, type, r, comm,
                         stream_.handle());
      if (result != nccl::kSuccess) break;
      result = api_.receive(static_cast<std::byte*>(output.raw()) + at, count, type, r, comm,
                            stream_.handle());
    }
    const nccl::Result ended =
        api_.group_end();  // also of a group that failed: it must not stay open
    return result != nccl::kSuccess ? result : ended;
  });
}

std::uint64_t NcclCommunicator::do_barrier(std::string_view label) {
  return with_host([&] {
    host().barrier(label);
    return works_.add(Work());
  });
}

SharedBuffer NcclCommunicator::do_allocate_host(std::size_t bytes, const std::string& region,
                                                core::MemoryTracker& tracker) {
  return with_host([&] { return host().allocate(bytes, region, tracker); });
}

std::uint64_t NcclCommunicator::launch(const Entry& entry, const Call& call) {
  return with_host([&] {
    const core::DeviceStream& present = present_stream();
    ready_.record(present);
    ready_.hold_back(stream_);
    Flight& flight = take_off(entry);
    if (timer() != nullptr) timer()->begin(entry.collective, stream_);
    if (entry.count > 0) issue(flight, call);
    if (timer() != nullptr) timer()->end(stream_);
    count_bytes(entry);
    const std::lock_guard lock(flights_mutex_);
    flight.ended.record(stream_);
    flight.issued = true;
    return works_.add(stream_, 0, nullptr);
  });
}

// Enters it on this rank, so that peers and the watch know of it whatever becomes of it.
NcclCommunicator::Flight& NcclCommunicator::take_off(const Entry& entry) {
  const RollCall::Announced announced = roll_call_of_host().announce(entry);
  Flight flight;
  flight.announced = announced.work;
  flight.sequence = announced.sequence;
  flight.name =
      fmt::format("{} #{} ({})", name_of(entry.collective), announced.sequence, entry.label);
  const std::lock_guard lock(flights_mutex_);
  flight.begun = events_.take_recorded(stream_);
  flight.ended = events_.take();
  return flights_.emplace_back(std::move(flight));
}

// Hands it to NCCL and returns when it is on the stream, which the first time may take as long as
// the peers take to come.
void NcclCommunicator::issue(const Flight& flight, const Call& call) {
  const Deadline begin = std::chrono::steady_clock::now();
  const Deadline deadline = default_deadline();
  Backoff backoff(true);
  NcclState state = handle_->call(call);
  while (state == NcclState::kInProgress) {
    backoff.pause();
    if (backoff.time_to_check()) {
      roll_call_of_host().look_for_dead_peers();
      const Deadline now = std::chrono::steady_clock::now();
      if (now > deadline) {
        fail_late(flight.announced,
                  fmt::format("all ranks have entered {}, but NCCL on {} has not begun it for "
                              "{:.3g} s",
                              flight.name, roll_call_of_host().describe_rank(rank()),
                              std::chrono::duration<double>(now - begin).count()));
      }
    }
    state = handle_->state();
  }
  if (state == NcclState::kReady) return;
  host().progress();  // throws when the group has failed, which is why there is no handle any more
  // NCCL may tell of what went wrong in one before it, that the device is in.
  const std::string first = first_flight();
  fail(fmt::format("{}: {} in {}{}", roll_call_of_host().describe_rank(rank()), handle_->what(),
                   flight.name, first == flight.name ? "" : ", behind " + first));
}

// What crosses between ranks, as on the other backends, however NCCL routes it.
void NcclCommunicator::count_bytes(const Entry& entry) {
  const std::uint64_t others = static_cast<std::uint64_t>(world_size()) - 1;
  const std::uint64_t bytes = entry.count * core::size_of(entry.dtype);
  CollectiveStats& stats = count(entry.collective);
  if (entry.collective == Collective::kBroadcast) {
    (rank() == entry.root ? stats.bytes_sent : stats.bytes_received) +=
        rank() == entry.root ? others * bytes : bytes;
    return;
  }
  const std::uint64_t moved = entry.collective == Collective::kAllReduce
                                  ? 2 * others * bytes / static_cast<std::uint64_t>(world_size())
                                  : others * bytes;
  stats.bytes_sent += moved;
  stats.bytes_received += moved;
}

// ---- Waiting --------------------------------------------------------------------------------

void NcclCommunicator::do_wait_output(std::uint64_t id, Deadline deadline) {
  with_host([&] {
    host().progress();
    works_.wait_output(id, stream_if_any(), deadline);
  });
}

void NcclCommunicator::do_wait_input(std::uint64_t id, Deadline deadline) {
  with_host([&] {
    host().progress();
    works_.wait_input(id, stream_if_any(), deadline);
  });
}

bool NcclCommunicator::do_done(std::uint64_t id) {
  return with_host([&] {
    host().progress();
    return works_.done(id);
  });
}

bool NcclCommunicator::do_input_done(std::uint64_t id) {
  return with_host([&] {
    host().progress();
    return works_.input_done(id);
  });
}

void NcclCommunicator::do_progress() {
  with_host([&] {
    host().progress();
    works_.settle();
    complete_flights();
  });
}

void NcclCommunicator::do_measure_times() {
  DeviceCommunicator::do_measure_times();
  works_.time_with(timer());
}

// From any thread. The host's abort may send messages, which must not meet those of the watch; but
// a thread that waits in the host communicator holds the lock for long, and then sees the failure.
void NcclCommunicator::do_abort(ErrorKind kind, std::string_view reason) noexcept {
  const std::unique_lock lock(host_mutex_, std::chrono::milliseconds(100));
  host().abort(kind, reason);
}

}  // namespace lockstep::comm
