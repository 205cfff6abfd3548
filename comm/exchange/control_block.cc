#include "comm/exchange/control_block.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "core/check.h"
#include "core/hash.h"

namespace lockstep::comm {

namespace {

constexpr std::size_t kSlotsOffset = (sizeof(Failure) + 63) / 64 * 64;

}  // namespace

bool Record::matches(const Record& other) const {
  return sequence == other.sequence && count == other.count && label_hash == other.label_hash &&
         collective == other.collective && dtype == other.dtype && op == other.op &&
         phase == other.phase && root == other.root;
}

std::string Record::name() const {
  return fmt::format("{} #{} ({})", name_of(collective), sequence, label);
}

std::string Record::describe() const {
  if (collective == Collective::kBarrier) return name();
  std::string text = fmt::format("{} #{} ({}, {} x {}", name_of(collective), sequence, label, count,
                                 core::name_of(dtype));
  if (op != ReduceOp::kSum) text += op == ReduceOp::kMax ? ", max" : ", min";
  if (collective == Collective::kBroadcast) text += fmt::format(", root {}", root);
  return text + ")";
}

void Record::set_label(std::string_view text) {
  label_hash = core::hash64(text);
  const std::size_t n = std::min(text.size(), sizeof(label) - 1);
  std::memcpy(label, text.data(), n);
  label[n] = '\0';
}

bool Failure::set(core::ErrorKind error_kind, std::string_view message) noexcept {
  std::uint32_t expected = kNone;
  if (!state.compare_exchange_strong(expected, kBeingWritten, std::memory_order_acq_rel)) {
    return false;
  }
  kind = static_cast<std::int32_t>(error_kind);
  const std::size_t n = std::min(message.size(), sizeof(text) - 1);
  std::memcpy(text, message.data(), n);
  text[n] = '\0';
  state.store(kSet, std::memory_order_release);
  return true;
}

void Failure::raise() const {
  throw core::Error(static_cast<core::ErrorKind>(kind), text);
}

std::size_t ControlBlock::bytes(int ranks) {
  return kSlotsOffset + static_cast<std::size_t>(ranks) * sizeof(RankSlot);
}

ControlBlock ControlBlock::create(void* memory, int ranks) {
  auto* base = static_cast<std::byte*>(memory);
  new (base) Failure();
  for (int r = 0; r < ranks; ++r)
    new (base + kSlotsOffset + static_cast<std::size_t>(r) * sizeof(RankSlot)) RankSlot();
  return attach(memory);
}

ControlBlock ControlBlock::attach(void* memory) {
  auto* base = static_cast<std::byte*>(memory);
  return {std::launder(reinterpret_cast<Failure*>(base)),
          std::launder(reinterpret_cast<RankSlot*>(base + kSlotsOffset))};
}

}  // namespace lockstep::comm
