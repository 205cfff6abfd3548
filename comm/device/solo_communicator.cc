#include "comm/device/solo_communicator.h"

#include <utility>

#include "core/check.h"

namespace lockstep::comm {

using core::ConstTensorView;
using core::TensorView;

namespace {

bool on_host(const ConstTensorView& view) {
  return view.device().type == core::DeviceType::kCpu;
}

}  // namespace

SoloCommunicator::SoloCommunicator(std::unique_ptr<Communicator> host, core::DeviceRef device)
    : DeviceCommunicator(host->backend(), std::move(host), device), works_(device) {
  LOCKSTEP_CHECK_EQ(world_size(), 1, "ranks of a solo communicator");
}

// With one rank every collective leaves in its output what was in its input.
std::uint64_t SoloCommunicator::copy(Collective collective, const ConstTensorView& input,
                                     const TensorView& output, std::string_view label) {
  const core::DeviceStream& stream = present_stream();
  const Entry entry{.collective = collective,
                    .dtype = input.dtype(),
                    .count = static_cast<std::uint64_t>(input.elements()),
                    .label = label,
                    .input_bytes = input.bytes()};
  const std::uint64_t sequence = roll_call_of_host().announce(entry).sequence;
  if (output.raw() != input.raw()) stream.on_device(output.raw(), input.raw(), input.bytes());
  return works_.add(stream, sequence, recorder());
}

std::uint64_t SoloCommunicator::do_all_reduce(ConstTensorView input, TensorView output, ReduceOp op,
                                              std::string_view label) {
  if (on_host(input)) return works_.add(host().all_reduce(input, output, op, label));
  return copy(Collective::kAllReduce, input, output, label);
}

std::uint64_t SoloCommunicator::do_reduce_scatter(ConstTensorView input, TensorView output,
                                                  Output mode, std::string_view label) {
  if (on_host(input)) return works_.add(host().reduce_scatter(input, output, mode, label));
  return copy(Collective::kReduceScatter, input, output, label);
}

std::uint64_t SoloCommunicator::do_all_gather(ConstTensorView input, TensorView output,
                                              std::string_view label) {
  if (on_host(input)) return works_.add(host().all_gather(input, output, label));
  return copy(Collective::kAllGather, input, output, label);
}

std::uint64_t SoloCommunicator::do_broadcast(TensorView data, int root, std::string_view label) {
  if (on_host(data)) return works_.add(host().broadcast(data, root, label));
  return copy(Collective::kBroadcast, data, data, label);
}

std::uint64_t SoloCommunicator::do_all_to_all(ConstTensorView input, TensorView output,
                                              std::string_view label) {
  if (on_host(input)) return works_.add(host().all_to_all(input, output, label));
  return copy(Collective::kAllToAll, input, output, label);
}

std::uint64_t SoloCommunicator::do_barrier(std::string_view label) {
  host().barrier(label);
  return works_.add(Work());
}

void SoloCommunicator::do_wait_output(std::uint64_t id, Deadline deadline) {
  works_.wait_output(id, stream_if_any(), deadline);
}

void SoloCommunicator::do_wait_input(std::uint64_t id, Deadline deadline) {
  works_.wait_input(id, stream_if_any(), deadline);
}

bool SoloCommunicator::do_done(std::uint64_t id) {
  return works_.done(id);
}

bool SoloCommunicator::do_input_done(std::uint64_t id) {
  return works_.input_done(id);
}

void SoloCommunicator::do_progress() {
  host().progress();
  works_.settle();
}

}  // namespace lockstep::comm
