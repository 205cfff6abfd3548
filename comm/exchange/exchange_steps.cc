// The parts of an exchange, each done as far as possible without waiting: post, stage, read.

#include <algorithm>
#include <cstring>

#include "comm/exchange/exchange_communicator.h"
#include "comm/flight_recorder.h"
#include "comm/reduce_kernels.h"
#include "core/check.h"

namespace lockstep::comm {

bool ExchangeCommunicator::advance() {
  raise_failure();
  bool moved = post_ready();
  moved = stage_ready() || moved;
  moved = read_ready() || moved;
  if (moved) retire();
  return moved;
}

void ExchangeCommunicator::retire() {
  while (!queue_.empty() && queue_begin_ < std::min(staged_, read_)) {
    queue_.pop_front();
    ++queue_begin_;
  }
}

// ---- Posting --------------------------------------------------------------------------------

// One entry stays free behind every rank's last completed operation (see control_block.h).
bool ExchangeCommunicator::ring_has_room(std::uint64_t index) const {
  if (index + 2 <= kRing) return true;
  const std::uint64_t needed = index + 2 - kRing;
  for (int p = 0; p < node_->ranks(); ++p) {
    if (control_.slot(p).completed.load(std::memory_order_acquire) < needed) return false;
  }
  return true;
}

bool ExchangeCommunicator::post_ready() {
  bool moved = false;
  while (posted_ < queue_end()) {
    Operation& op = at(posted_);
    if (op.after_previous && read_ < op.index) break;
    if (!ring_has_room(op.index)) break;
    post(op);
    moved = true;
  }
  return moved;
}

void ExchangeCommunicator::post(Operation& op) {
  Record& record = op.record;
  const std::size_t elements = op.input_elements(rank(), world_size());
  const std::size_t bytes = elements * op.element_bytes;
  if (bytes == 0) {
    record.source = Source::kNone;
  } else if (bytes <= kInlineBytes) {
    record.source = Source::kInline;
    std::memcpy(record.payload, op.input, bytes);
  } else if (node_->ranks() == 1) {
    record.source = Source::kNone;
  } else if (const auto location = node_->locate(op.input, bytes)) {
    record.source = Source::kDirect;
    record.location = *location;
  } else {
    record.source = Source::kStaged;
  }
  own_slot().ring[op.index % kRing] = record;
  own_slot().posted.store(op.index + 1, std::memory_order_release);
  if (remote_ != nullptr) remote_->post(op);
  op.posted = true;
  op.posted_at = std::chrono::steady_clock::now();
  ++posted_;
  note_entered(op);
  for (int target = 0; target < world_size(); ++target) {
    if (target == rank()) continue;
    count(record.collective).bytes_sent += op.length(rank(), target) * op.element_bytes;
  }
}

// ---- Staging --------------------------------------------------------------------------------

bool ExchangeCommunicator::stage_ready() {
  bool moved = false;
  while (staged_ < posted_) {
    Operation& op = at(staged_);
    if (op.record.source != Source::kStaged) op.staged_chunks = op.chunks;
    while (op.staged_chunks < op.chunks) {
      const std::uint64_t ticket = op.first_ticket + op.staged_chunks;
      for (int p = 0; ticket >= Node::kSlots && p < node_->ranks(); ++p) {
        const bool slot_free =
            p == node_->rank() ||
            control_.slot(p).read.load(std::memory_order_acquire) + Node::kSlots > ticket;
        if (!slot_free) return moved;
      }
      stage_chunk(op, op.staged_chunks);
      ++op.staged_chunks;
      own_slot().staged.store(ticket + 1, std::memory_order_release);
      moved = true;
    }
    ++staged_;
    moved = true;
  }
  return moved;
}

void ExchangeCommunicator::stage_chunk(const Operation& op, std::uint64_t chunk) {
  const std::uint64_t slot = (op.first_ticket + chunk) % Node::kSlots;
  std::byte* to = node_->own_staging() + slot * Node::kSlotBytes;
  const int parts = op.one_slice_for_all() ? 1 : world_size();
  for (int part = 0; part < parts; ++part) {
    const int target = op.one_slice_for_all() ? rank() : part;
    const std::size_t bytes = op.chunk_length(rank(), target, chunk) * op.element_bytes;
    const std::size_t from = op.offset(rank(), target) + op.chunk_begin(chunk);
    std::byte* place = to + static_cast<std::size_t>(part) * op.chunk_elements * op.element_bytes;
    if (bytes > 0) std::memcpy(place, op.input + from * op.element_bytes, bytes);
  }
}

// ---- Reading --------------------------------------------------------------------------------

bool ExchangeCommunicator::read_ready() {
  bool moved = false;
  while (read_ < posted_) {
    Operation& op = at(read_);
    if (!peers_entered(op)) break;
    if (op.after_previous && remote_ != nullptr && !remote_->sent(op.index - 1)) break;
    while (op.read_chunks < op.chunks) {
      if (!read_chunk(op, op.read_chunks)) return moved;
      ++op.read_chunks;
      own_slot().read.store(op.first_ticket + op.read_chunks, std::memory_order_release);
      moved = true;
    }
    own_slot().read.store(op.last_ticket, std::memory_order_release);
    finish_read(op);
    moved = true;
  }
  return moved;
}

void ExchangeCommunicator::finish_read(const Operation& op) {
  own_slot().completed.store(op.index + 1, std::memory_order_release);
  ++read_;
  note_completed(op);
}

// ---- The flight recorder --------------------------------------------------------------------

// A collective of two operations is entered with the first and completed with the last.
void ExchangeCommunicator::note_entered(const Operation& op) {
  if (recorder() == nullptr || !op.first_of_collective()) return;
  const int source = op.pattern == Operation::Pattern::kFromRoot ? op.record.root : rank();
  const std::uint64_t bytes = op.announced
                                  ? op.announced_bytes
                                  : op.input_elements(source, world_size()) * op.element_bytes;
  recorder()->entered(op.record.sequence, op.record.collective, bytes, op.record.label);
}

void ExchangeCommunicator::note_completed(const Operation& op) {
  if (recorder() == nullptr || op.announced || !op.last_of_collective()) return;
  recorder()->completed(op.record.sequence);
}

const Record* ExchangeCommunicator::record_of(int rank, std::uint64_t index) const {
  const int node_rank = group_.node_rank[static_cast<std::size_t>(rank)];
  if (node_rank < 0) return remote_->record(rank, index);
  const RankSlot& slot = control_.slot(node_rank);
  return slot.posted.load(std::memory_order_acquire) > index ? &slot.entry(index) : nullptr;
}

bool ExchangeCommunicator::peers_entered(Operation& op) {
  if (op.checked) return true;
  for (; op.entered_ranks < world_size(); ++op.entered_ranks) {
    if (record_of(op.entered_ranks, op.index) == nullptr) return false;
  }
  check_records(op);
  op.checked = true;
  if (all_in_place(op)) op.read_whole();
  return true;
}

bool ExchangeCommunicator::all_in_place(const Operation& op) const {
  for (int r = 0; r < world_size(); ++r) {
    if (group_.node_rank[static_cast<std::size_t>(r)] < 0) return false;
    if (record_of(r, op.index)->source == Source::kStaged) return false;
  }
  return true;
}

void ExchangeCommunicator::check_records(const Operation& op) {
  const Record& first = *record_of(0, op.index);
  for (int r = 1; r < world_size(); ++r) {
    const Record& other = *record_of(r, op.index);
    if (other.matches(first)) continue;
    fail(core::ErrorKind::kCommunication,
         fmt::format("the ranks are not in the same operation: {} entered {}, {} entered {}; all "
                     "ranks must call the same collectives in the same order with the same sizes",
                     describe_rank(r), other.describe(), describe_rank(0), first.describe()));
  }
}

const std::byte* ExchangeCommunicator::find_source(const Operation& op, int source,
                                                   std::uint64_t chunk) {
  const std::size_t at_byte =
      (op.offset(source, rank()) + op.chunk_begin(chunk)) * op.element_bytes;
  if (source == rank()) return op.input + at_byte;
  const Record& record = *record_of(source, op.index);
  if (record.source == Source::kInline) return record.payload + at_byte;
  const int peer = group_.node_rank[static_cast<std::size_t>(source)];
  if (peer < 0) return remote_->chunk(op, source, chunk);
  if (record.source == Source::kDirect) return node_->resolve(peer, record.location) + at_byte;

  const std::uint64_t ticket = op.first_ticket + chunk;
  if (control_.slot(peer).staged.load(std::memory_order_acquire) <= ticket) return nullptr;
  const std::size_t part = op.one_slice_for_all() ? 0 : static_cast<std::size_t>(rank());
  return node_->staging(peer) + (ticket % Node::kSlots) * Node::kSlotBytes +
         part * op.chunk_elements * op.element_bytes;
}

bool ExchangeCommunicator::read_chunk(Operation& op, std::uint64_t chunk) {
  for (int s = 0; s < world_size(); ++s) {
    const std::byte*& source = sources_[static_cast<std::size_t>(s)];
    source = nullptr;
    if (op.chunk_length(s, rank(), chunk) == 0) continue;
    source = find_source(op, s, chunk);
    if (source == nullptr) return false;
  }
  const std::size_t begin = op.chunk_begin(chunk);
  const std::size_t own = op.chunk_length(rank(), rank(), chunk);
  if (op.reduces && own > 0) {
    reduce_in_rank_order(op.record.dtype, sources_, op.output_dtype,
                         op.output + begin * core::size_of(op.output_dtype), own, op.record.op,
                         op.mode);
  }
  for (int s = 0; s < world_size(); ++s) {
    const std::byte* source = sources_[static_cast<std::size_t>(s)];
    if (source == nullptr) continue;
    const std::size_t bytes = op.chunk_length(s, rank(), chunk) * op.element_bytes;
    if (!op.reduces) {
      std::byte* to = op.output + (op.output_offset(s) + begin) * op.element_bytes;
      if (to != source) copy_bytes(source, to, bytes);
    }
    if (s != rank()) count(op.record.collective).bytes_received += bytes;
  }
  return true;
}

}  // namespace lockstep::comm
