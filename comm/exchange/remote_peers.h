#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "comm/exchange/control_block.h"
#include "core/error.h"

namespace lockstep::comm {

struct Operation;

// The ranks of other nodes: records and chunks travel to them and from them as messages, in the
// order of operations. All calls come from the communicator's thread; none blocks.
class RemotePeers {
 public:
  virtual ~RemotePeers() = default;

  // Sends `operation`'s record and this rank's slices to every remote rank. The input stays in
  // place until sent(index).
  virtual void post(const Operation& operation) = 0;
  // The record of operation `index` of a remote rank, or null while it has not come.
  virtual const Record* record(int rank, std::uint64_t index) = 0;
  // The next operation whose record came from `rank`: how far it is known to have got.
  virtual std::uint64_t posted(int rank) const = 0;
  // Chunk `chunk` of `rank`'s slice for this rank in the operation being read, or null while it
  // has not come. Chunks are asked for in order; asking for one gives back the memory of the one
  // before.
  virtual const std::byte* chunk(const Operation& operation, int rank, std::uint64_t chunk) = 0;
  // Whether everything sent for operations up to and including `index` has left this rank.
  virtual bool sent(std::uint64_t index) = 0;

  // Spreads a failure to all remote ranks, once; looks for one that came from them.
  virtual void spread_failure(core::ErrorKind kind, const std::string& text) noexcept = 0;
  virtual std::optional<core::Error> poll_failure() = 0;

  virtual std::size_t internal_bytes() const = 0;
};

}  // namespace lockstep::comm
