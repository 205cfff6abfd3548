#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

#include "comm/communicator.h"
#include "core/dtype.h"
#include "core/error.h"

namespace lockstep::comm {

// What the ranks of one node share: a ring of posted operations and a few counters per rank, and
// one place for the first failure. It lies in plain memory for threads and in a mapped segment for
// processes, so it holds only lock-free atomics and plain bytes.
//
// Protocol. A rank posts operation i by writing ring entry i % kRing and then raising `posted` to
// i + 1 (release). It reads its peers' inputs once all have posted i, and raises `completed` to
// i + 1 when it needs no input of i any more. Entry i may be overwritten once every rank has
// completed it; posting stops one entry earlier, so that a rank's last completed entry can always
// be shown in a diagnosis. Operations are cut into chunks by a rule that all ranks share; chunks
// are numbered through the life of the group (tickets). A rank whose input peers cannot read in
// place copies chunk t to staging slot t % slots, raises `staged` to t + 1, and reuses the slot
// once every peer has raised `read` past t.

constexpr std::uint64_t kRing = 64;
constexpr std::size_t kInlineBytes = 512;  // inputs up to this size travel inside the record

enum class Source : std::uint8_t { kNone, kInline, kDirect, kStaged };

// An address that means the same to every rank of a node: `segment` names a mapping.
struct Location {
  std::uint64_t segment = 0;
  std::uint64_t offset = 0;
};

// One rank's statement of what it enters. The first group of fields must agree on all ranks.
struct Record {
  std::uint64_t sequence = 0;  // number of the collective, from 1
  std::uint64_t count = 0;     // elements of the call (of one part for scatter, gather, all-to-all)
  std::uint64_t label_hash = 0;
  Collective collective = Collective::kBarrier;
  core::DType dtype = core::DType::kU8;
  ReduceOp op = ReduceOp::kSum;
  std::uint8_t phase = 0;
  std::int32_t root = 0;

  Source source = Source::kNone;
  Location location;  // of the input, for kDirect
  char label[64] = {};
  std::byte payload[kInlineBytes] = {};

  bool matches(const Record& other) const;
  std::string describe() const;  // "reduce_scatter #812 (block.7, 1024 x fp32)"
  std::string name() const;      // "reduce_scatter #812 (block.7)"
  void set_label(std::string_view text);
};

enum class RankState : std::uint32_t { kJoined, kLeft };

struct RankSlot {
  alignas(64) std::atomic<std::uint64_t> posted{0};
  std::atomic<std::uint64_t> staged{0};
  alignas(64) std::atomic<std::uint64_t> read{0};
  std::atomic<std::uint64_t> completed{0};
  alignas(64) std::atomic<RankState> state{RankState::kJoined};
  std::atomic<std::uint64_t> begun{0};  // the last announced collective its device has begun
  alignas(64) Record ring[kRing];

  const Record& entry(std::uint64_t index) const { return ring[index % kRing]; }
};

// The first failure of the group; written once.
struct Failure {
  enum State : std::uint32_t { kNone, kBeingWritten, kSet };
  std::atomic<std::uint32_t> state{kNone};
  std::int32_t kind = 0;
  char text[1000] = {};

  // Records the failure unless there is one already. Returns whether this call did.
  bool set(core::ErrorKind error_kind, std::string_view message) noexcept;
  bool is_set() const { return state.load(std::memory_order_acquire) == kSet; }
  [[noreturn]] void raise() const;
};

static_assert(std::atomic<std::uint64_t>::is_always_lock_free);
static_assert(std::atomic<std::uint32_t>::is_always_lock_free);

// The block's memory: one Failure, then one RankSlot per rank of the node. A view; the memory,
// bytes(ranks) zero bytes on a 64-byte boundary, belongs to the backend.
class ControlBlock {
 public:
  ControlBlock() = default;
  static std::size_t bytes(int ranks);
  // Builds the objects in `memory`; one rank does this before any other attaches.
  static ControlBlock create(void* memory, int ranks);
  static ControlBlock attach(void* memory);

  Failure& failure() const { return *failure_; }
  RankSlot& slot(int node_rank) const { return slots_[node_rank]; }

 private:
  ControlBlock(Failure* failure, RankSlot* slots) : failure_(failure), slots_(slots) {}
  Failure* failure_ = nullptr;
  RankSlot* slots_ = nullptr;
};

}  // namespace lockstep::comm
