#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/exchange/node.h"
#include "comm/mpi/mpi_check.h"
#include "comm/mpi/node_segment.h"

namespace lockstep::comm {

// Notices that a process has ended, however it ended, without waiting for it.
class ProcessWatch {
 public:
  explicit ProcessWatch(int pid);
  ~ProcessWatch();
  ProcessWatch(ProcessWatch&& other) noexcept;
  ProcessWatch& operator=(ProcessWatch&&) = delete;

  bool ended() const;

 private:
  int pid_;
  int descriptor_;  // pidfd; -1 where the kernel has none
};

// The ranks of one node as processes that map each other's segments. MPI is used only while this is
// made.
class MpiNode final : public Node {
 public:
  // Collective over node_comm, whose ranks become the node ranks. world_ranks: of the node's ranks.
  MpiNode(const MpiComm& node_comm, SegmentKind kind, std::vector<int> world_ranks);
  ~MpiNode() override;

  int ranks() const override { return ranks_; }
  int rank() const override { return rank_; }
  ControlBlock control() const override { return control_; }
  std::optional<Location> locate(const void* data, std::size_t bytes) const override;
  const std::byte* resolve(int peer, Location location) const override;
  std::byte* own_staging() const override { return staging_->own(); }
  const std::byte* staging(int peer) const override { return staging_->piece(peer); }
  SharedBuffer allocate(std::size_t bytes, const std::string& region, core::MemoryTracker& tracker,
                        Communicator& communicator) override;
  std::optional<int> find_dead_peer() override;
  std::size_t internal_bytes() const override;

  // The segments that buffers live in, by the number all ranks know them by. Shared with the
  // buffers, which may outlive the node.
  struct Segments {
    std::map<std::uint64_t, std::shared_ptr<NodeSegment>> by_number;
    std::uint64_t next = 1;
  };

 private:
  int rank_;
  int ranks_;
  SegmentKind kind_;
  std::vector<int> world_ranks_;
  std::unique_ptr<NodeSegment> control_segment_;
  std::unique_ptr<NodeSegment> staging_;
  ControlBlock control_;
  std::shared_ptr<Segments> segments_;
  std::vector<ProcessWatch> watches_;
};

}  // namespace lockstep::comm
