// The roll call for communicators of a device: see comm/roll_call.h.

#include "comm/exchange/exchange_communicator.h"
#include "core/check.h"

namespace lockstep::comm {

RollCall::Announced ExchangeCommunicator::announce(const Entry& entry) {
  Operation op = make_operation(entry.collective, entry.dtype,
                                static_cast<std::int64_t>(entry.count), entry.label);
  op.record.op = entry.op;
  op.record.root = entry.root;
  op.record.sequence = ++sequence_;
  op.announced = true;
  op.announced_bytes = entry.input_bytes;
  const std::uint64_t sequence = op.record.sequence;
  return {work_of(enqueue(std::move(op))), sequence};
}

void ExchangeCommunicator::note_begun(std::uint64_t sequence) noexcept {
  own_slot().begun.store(sequence, std::memory_order_release);
}

std::vector<int> ExchangeCommunicator::ranks_not_begun(std::uint64_t sequence) const {
  std::vector<int> ranks;
  for (int r = 0; r < world_size(); ++r) {
    const int peer = group_.node_rank[static_cast<std::size_t>(r)];
    if (peer < 0) continue;
    if (control_.slot(peer).begun.load(std::memory_order_acquire) < sequence) ranks.push_back(r);
  }
  return ranks;
}

void ExchangeCommunicator::look_for_dead_peers() {
  raise_failure();
  if (const auto dead = node_->find_dead_peer()) {
    fail_for_death(*dead, "while its device worked on a collective");
  }
}

bool ExchangeCommunicator::failed() const noexcept {
  return control_.failure().is_set();
}

std::string ExchangeCommunicator::failure() const {
  return failed() ? control_.failure().text : "";
}

void ExchangeCommunicator::fail_with(core::ErrorKind kind, std::string_view text) noexcept {
  control_.failure().set(kind, text);
}

std::string ExchangeCommunicator::describe_rank(int rank) const {
  return fmt::format("rank {} (host {})", rank, group_.hosts[static_cast<std::size_t>(rank)]);
}

}  // namespace lockstep::comm
