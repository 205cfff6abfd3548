#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "comm/exchange/control_block.h"
#include "comm/shared_buffer.h"
#include "core/memory.h"

namespace lockstep::comm {

// How one rank and its peers on the same node see each other's memory. Node ranks are 0 to
// ranks() - 1, in the order of world ranks.
class Node {
 public:
  // Staging areas are kSlots pieces of kSlotBytes per rank.
  static constexpr std::size_t kSlotBytes = std::size_t{1} << 20;
  static constexpr std::uint64_t kSlots = 4;

  virtual ~Node() = default;

  virtual int ranks() const = 0;
  virtual int rank() const = 0;
  virtual ControlBlock control() const = 0;

  // Where peers find [data, data + bytes), or nothing if they cannot read it.
  virtual std::optional<Location> locate(const void* data, std::size_t bytes) const = 0;
  // A peer's location, in this rank's address space.
  virtual const std::byte* resolve(int peer, Location location) const = 0;

  // Null where locate always succeeds.
  virtual std::byte* own_staging() const = 0;
  virtual const std::byte* staging(int peer) const = 0;

  // The backend's part of Communicator::allocate; `communicator` serves to agree with the peers.
  virtual SharedBuffer allocate(std::size_t bytes, const std::string& region,
                                core::MemoryTracker& tracker, Communicator& communicator) = 0;

  // A peer (node rank) whose process has ended without leaving the group; nothing while all live.
  virtual std::optional<int> find_dead_peer() = 0;

  virtual std::size_t internal_bytes() const = 0;
};

}  // namespace lockstep::comm
