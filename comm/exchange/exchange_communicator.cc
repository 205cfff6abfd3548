#include "comm/exchange/exchange_communicator.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "comm/reduce_kernels.h"
#include "core/check.h"

namespace lockstep::comm {

using core::ConstTensorView;
using core::DType;
using core::TensorView;

namespace {

std::byte* bytes_of(const TensorView& view) {
  return static_cast<std::byte*>(view.raw());
}
const std::byte* bytes_of(const ConstTensorView& view) {
  return static_cast<const std::byte*>(view.raw());
}

}  // namespace

ExchangeCommunicator::ExchangeCommunicator(std::string_view backend,
                                           std::chrono::milliseconds timeout, Group group,
                                           std::unique_ptr<Node> node,
                                           std::unique_ptr<RemotePeers> remote)
    : Communicator(group.rank, group.world_size, backend, timeout),
      group_(std::move(group)),
      node_(std::move(node)),
      remote_(std::move(remote)),
      control_(node_->control()),
      owner_(std::this_thread::get_id()),
      sources_(static_cast<std::size_t>(group_.world_size)) {}

ExchangeCommunicator::~ExchangeCommunicator() {
  own_slot().state.store(RankState::kLeft, std::memory_order_release);
}

std::size_t ExchangeCommunicator::internal_bytes() const {
  return node_->internal_bytes() + (remote_ == nullptr ? 0 : remote_->internal_bytes());
}

bool ExchangeCommunicator::serves(core::Device device) const {
  return device.type == core::DeviceType::kCpu;
}

// ---- The collectives as exchanges -----------------------------------------------------------

Operation ExchangeCommunicator::make_operation(Collective collective, DType dtype,
                                               std::int64_t elements,
                                               std::string_view label) const {
  Operation op;
  op.record.collective = collective;
  op.record.dtype = dtype;
  op.record.count = static_cast<std::uint64_t>(elements);
  op.record.set_label(label);
  op.output_dtype = dtype;
  op.element_bytes = core::size_of(dtype);
  op.slice = static_cast<std::size_t>(elements);
  return op;
}

std::uint64_t ExchangeCommunicator::do_all_reduce(ConstTensorView input, TensorView output,
                                                  ReduceOp op, std::string_view label) {
  constexpr std::size_t kUnit = 64;  // slices begin on cache lines
  Operation scatter =
      make_operation(Collective::kAllReduce, input.dtype(), input.elements(), label);
  scatter.total = scatter.slice;
  const std::size_t n = static_cast<std::size_t>(world_size());
  scatter.slice = (scatter.total + n * kUnit - 1) / (n * kUnit) * kUnit;
  scatter.record.op = op;
  scatter.record.sequence = ++sequence_;
  Operation gather = scatter;

  const std::size_t mine =
      std::min(scatter.total, scatter.slice * static_cast<std::size_t>(rank()));
  std::byte* own_part = bytes_of(output) + mine * scatter.element_bytes;
  scatter.pattern = Operation::Pattern::kUnevenScatter;
  scatter.reduces = true;
  scatter.input = bytes_of(input);
  scatter.output = own_part;
  gather.pattern = Operation::Pattern::kUnevenGather;
  gather.record.phase = 1;
  gather.after_previous = true;
  gather.input = own_part;
  gather.output = bytes_of(output);
  enqueue(std::move(scatter));
  return enqueue(std::move(gather));
}

std::uint64_t ExchangeCommunicator::do_reduce_scatter(ConstTensorView input, TensorView output,
                                                      Output mode, std::string_view label) {
  Operation op =
      make_operation(Collective::kReduceScatter, input.dtype(), output.elements(), label);
  op.pattern = Operation::Pattern::kScatter;
  op.reduces = true;
  op.mode = mode;
  op.output_dtype = output.dtype();
  op.input = bytes_of(input);
  op.output = bytes_of(output);
  op.record.sequence = ++sequence_;
  return enqueue(std::move(op));
}

std::uint64_t ExchangeCommunicator::do_all_gather(ConstTensorView input, TensorView output,
                                                  std::string_view label) {
  Operation op = make_operation(Collective::kAllGather, input.dtype(), input.elements(), label);
  op.pattern = Operation::Pattern::kGather;
  op.input = bytes_of(input);
  op.output = bytes_of(output);
  op.record.sequence = ++sequence_;
  return enqueue(std::move(op));
}

std::uint64_t ExchangeCommunicator::do_broadcast(TensorView data, int root,
                                                 std::string_view label) {
  Operation op = make_operation(Collective::kBroadcast, data.dtype(), data.elements(), label);
  op.pattern = Operation::Pattern::kFromRoot;
  op.record.root = root;
  op.input = bytes_of(data);
  op.output = bytes_of(data);
  op.record.sequence = ++sequence_;
  return enqueue(std::move(op));
}

std::uint64_t ExchangeCommunicator::do_all_to_all(ConstTensorView input, TensorView output,
                                                  std::string_view label) {
  Operation op =
      make_operation(Collective::kAllToAll, input.dtype(), input.elements() / world_size(), label);
  op.pattern = Operation::Pattern::kScatter;
  op.input = bytes_of(input);
  op.output = bytes_of(output);
  op.record.sequence = ++sequence_;
  return enqueue(std::move(op));
}

std::uint64_t ExchangeCommunicator::do_barrier(std::string_view label) {
  Operation op = make_operation(Collective::kBarrier, DType::kU8, 0, label);
  op.record.sequence = ++sequence_;
  return enqueue(std::move(op));
}

SharedBuffer ExchangeCommunicator::do_allocate(std::size_t bytes, const std::string& region,
                                               core::MemoryTracker& tracker, BufferUse /*use*/) {
  return node_->allocate(bytes, region, tracker, *this);
}

std::uint64_t ExchangeCommunicator::enqueue(Operation operation) {
  operation.index = queue_end();
  operation.cut(world_size());
  operation.first_ticket = tickets_;
  tickets_ += operation.chunks;
  operation.last_ticket = tickets_;
  const std::uint64_t index = operation.index;
  queue_.push_back(std::move(operation));
  advance();
  return index;
}

// ---- Waiting --------------------------------------------------------------------------------

bool ExchangeCommunicator::holds(Condition condition, std::uint64_t id) {
  return condition == Condition::kOutput ? output_complete(id) : input_reusable(id);
}

void ExchangeCommunicator::wait_for(Condition condition, std::uint64_t id, Deadline deadline) {
  const Deadline begin = std::chrono::steady_clock::now();
  Backoff backoff(group_.crowded);
  std::optional<Deadline> idle_since;
  while (true) {
    const bool moved = advance();
    const bool over = holds(condition, id);
    if ((moved || over) && idle_since) {
      add_waited(std::chrono::steady_clock::now() - *idle_since);
      idle_since.reset();
    }
    if (over) return;
    if (moved) backoff.reset();
    if (!idle_since) idle_since = std::chrono::steady_clock::now();
    backoff.pause();
    if (backoff.time_to_check()) check_peers(condition, id, begin, deadline);
  }
}

void ExchangeCommunicator::do_wait_output(std::uint64_t id, Deadline deadline) {
  wait_for(Condition::kOutput, id, deadline);
}

void ExchangeCommunicator::do_wait_input(std::uint64_t id, Deadline deadline) {
  wait_for(Condition::kInput, id, deadline);
}

bool ExchangeCommunicator::do_done(std::uint64_t id) {
  advance();
  return output_complete(id);
}

bool ExchangeCommunicator::do_input_done(std::uint64_t id) {
  advance();
  return input_reusable(id);
}

void ExchangeCommunicator::do_progress() {
  while (advance()) {
  }
}

bool ExchangeCommunicator::input_reusable(std::uint64_t id) {
  if (read_ <= id || staged_ <= id) return false;
  if (remote_ != nullptr && !remote_->sent(id)) return false;
  if (posted_ > id + kRing - 1) return true;  // the ring went round: all peers have completed it
  if (own_slot().entry(id).source != Source::kDirect) return true;  // peers read a copy
  for (int p = 0; p < node_->ranks(); ++p) {
    if (control_.slot(p).completed.load(std::memory_order_acquire) <= id) return false;
  }
  return true;
}

}  // namespace lockstep::comm
