#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "comm/communicator.h"

namespace lockstep::comm {

// What a rank says of a collective when it enters it; all ranks say the same.
struct Entry {
  Collective collective = Collective::kBarrier;
  core::DType dtype = core::DType::kU8;
  // Elements: of the vector (all_reduce, broadcast), else of one rank's part.
  std::uint64_t count = 0;
  ReduceOp op = ReduceOp::kSum;
  int root = 0;
  std::string_view label;
  std::uint64_t input_bytes = 0;  // for the flight recorder; not compared
};

// What a communicator of the host does for one of a device that stands on it and moves its data by
// other means: it knows who has entered what. Same thread rules as its communicator, but where
// said otherwise.
class RollCall {
 public:
  virtual ~RollCall() = default;

  // Enters a collective of which nothing but the entry passes through the host: it takes its
  // number, is compared with the peers' entries and stands in the flight recorder like any other,
  // where whoever moves the data marks it completed. work: done when all ranks have entered; a wait
  // past its deadline names those that have not.
  struct Announced {
    Work work;
    std::uint64_t sequence = 0;
  };
  virtual Announced announce(const Entry& entry) = 0;

  // This rank's device has begun the announced collective of this number, and all before it. From
  // any thread.
  virtual void note_begun(std::uint64_t sequence) noexcept = 0;
  // The ranks of this node that have not noted it. From any thread.
  virtual std::vector<int> ranks_not_begun(std::uint64_t sequence) const = 0;

  // Throws, then on all ranks, when a peer of this node has died.
  virtual void look_for_dead_peers() = 0;
  // Whether the group has failed, as far as this rank has noticed. From any thread.
  virtual bool failed() const noexcept = 0;
  // What it has failed of; empty while it has not. From any thread.
  virtual std::string failure() const = 0;
  // Fails the group with this text, unless it has failed. From any thread; never blocks or throws.
  virtual void fail_with(core::ErrorKind kind, std::string_view text) noexcept = 0;
  virtual std::string describe_rank(int rank) const = 0;  // "rank 3 (host node7)"
};

}  // namespace lockstep::comm
