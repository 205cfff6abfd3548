#include "comm/mpi/mpi_node.h"

#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <utility>

#include "comm/communicator.h"
#include "comm/mpi/available_memory.h"
#include "core/check.h"

namespace lockstep::comm {

ProcessWatch::ProcessWatch(int pid)
    : pid_(pid), descriptor_(static_cast<int>(syscall(SYS_pidfd_open, pid, 0))) {}

ProcessWatch::~ProcessWatch() {
  if (descriptor_ >= 0) close(descriptor_);
}

ProcessWatch::ProcessWatch(ProcessWatch&& other) noexcept
    : pid_(other.pid_), descriptor_(std::exchange(other.descriptor_, -1)) {}

bool ProcessWatch::ended() const {
  if (descriptor_ < 0) return kill(pid_, 0) != 0 && errno == ESRCH;
  pollfd entry{descriptor_, POLLIN, 0};
  return poll(&entry, 1, 0) == 1;
}

namespace {

class SegmentStorage : public SharedBuffer::Storage {
 public:
  SegmentStorage(std::shared_ptr<MpiNode::Segments> segments, std::uint64_t number, void* data,
                 std::size_t bytes, core::MemoryTracker& tracker, std::string region)
      : Storage(data, bytes),
        segments_(std::move(segments)),
        number_(number),
        tracker_(tracker),
        region_(std::move(region)) {
    tracker_.add(region_, this->bytes());
  }
  ~SegmentStorage() override {
    segments_->by_number.erase(number_);
    tracker_.remove(region_, bytes());
  }

 private:
  std::shared_ptr<MpiNode::Segments> segments_;
  std::uint64_t number_;
  core::MemoryTracker& tracker_;
  std::string region_;
};

// Names the rank that asked for most: where memory is short, all ranks of a node may have failed.
void fail_if_short(const std::vector<SegmentHandle>& handles, const std::string& region) {
  const auto most = std::max_element(
      handles.begin(), handles.end(), [](const SegmentHandle& a, const SegmentHandle& b) {
        return std::pair(a.error != 0, a.bytes) < std::pair(b.error != 0, b.bytes);
      });
  if (most->error == 0) return;
  throw core::Error(
      core::ErrorKind::kOutOfMemory,
      fmt::format(
          "rank {} cannot share {:.1f} MiB for {} with its node ({}; {:.1f} MiB are left on "
          "this rank's node); free memory, use fewer ranks per node, a higher ZeRO stage or "
          "a smaller micro-batch, or, in a container, raise its memory limit and the size "
          "of /dev/shm (docker run --shm-size)",
          most - handles.begin(), static_cast<double>(most->bytes) / 1048576.0, region,
          std::strerror(most->error), static_cast<double>(available_memory()) / 1048576.0));
}

HandleExchange exchange_by_mpi(const MpiComm& comm) {
  return [&comm](const SegmentHandle& own) {
    std::vector<SegmentHandle> all(static_cast<std::size_t>(comm.size()));
    check_mpi(
        MPI_Allgather(&own, sizeof(own), MPI_BYTE, all.data(), sizeof(own), MPI_BYTE, comm.get()),
        "MPI_Allgather");
    return all;
  };
}

}  // namespace

MpiNode::MpiNode(const MpiComm& node_comm, SegmentKind kind, std::vector<int> world_ranks)
    : rank_(node_comm.rank()),
      ranks_(node_comm.size()),
      kind_(kind),
      world_ranks_(std::move(world_ranks)),
      segments_(std::make_shared<Segments>()) {
  const HandleExchange exchange = exchange_by_mpi(node_comm);
  // Rank 0's piece is the control block; no peer touches it before the barrier.
  control_segment_ =
      std::make_unique<NodeSegment>(kind_, rank_ == 0 ? ControlBlock::bytes(ranks_) : 0,
                                    NodeSegment::PeerAccess::kReadWrite, rank_, exchange);
  if (rank_ == 0) ControlBlock::create(control_segment_->own(), ranks_);
  check_mpi(MPI_Barrier(node_comm.get()), "MPI_Barrier");
  control_ = ControlBlock::attach(control_segment_->piece(0));

  const std::size_t staging = ranks_ > 1 ? kSlots * kSlotBytes : 0;
  staging_ = std::make_unique<NodeSegment>(kind_, staging, NodeSegment::PeerAccess::kRead, rank_,
                                           exchange);
  SegmentHandle self;
  self.pid = getpid();
  for (const SegmentHandle& peer : exchange(self))
    watches_.emplace_back(peer.pid);
}

MpiNode::~MpiNode() = default;

std::size_t MpiNode::internal_bytes() const {
  return control_segment_->bytes() + staging_->bytes();
}

std::optional<Location> MpiNode::locate(const void* data, std::size_t bytes) const {
  const auto* begin = static_cast<const std::byte*>(data);
  const std::less_equal<const std::byte*> before;
  for (const auto& [number, segment] : segments_->by_number) {
    if (before(segment->own(), begin) && before(begin + bytes, segment->own() + segment->bytes())) {
      return Location{number, static_cast<std::uint64_t>(begin - segment->own())};
    }
  }
  return std::nullopt;
}

const std::byte* MpiNode::resolve(int peer, Location location) const {
  const auto found = segments_->by_number.find(location.segment);
  LOCKSTEP_CHECK(found != segments_->by_number.end(),
                 "rank {} uses shared buffer {}, which this rank has freed",
                 world_ranks_[static_cast<std::size_t>(peer)], location.segment);
  return found->second->piece(peer) + location.offset;
}

SharedBuffer MpiNode::allocate(std::size_t bytes, const std::string& region,
                               core::MemoryTracker& tracker, Communicator& communicator) {
  // All ranks of the job take part, so that a lack of memory anywhere is an error everywhere.
  const HandleExchange exchange = [&](const SegmentHandle& own) {
    const auto all = communicator.all_gather_small(own, "allocate " + region);
    fail_if_short(all, region);
    std::vector<SegmentHandle> node;
    for (const int r : world_ranks_)
      node.push_back(all[static_cast<std::size_t>(r)]);
    return node;
  };
  const std::uint64_t number = segments_->next++;
  const auto segment =
      std::make_shared<NodeSegment>(kind_, bytes, NodeSegment::PeerAccess::kRead, rank_, exchange);
  segments_->by_number[number] = segment;
  return SharedBuffer(
      std::make_unique<SegmentStorage>(segments_, number, segment->own(), bytes, tracker, region));
}

std::optional<int> MpiNode::find_dead_peer() {
  for (int p = 0; p < ranks_; ++p) {
    if (p == rank_ || !watches_[static_cast<std::size_t>(p)].ended()) continue;
    if (control_.slot(p).state.load(std::memory_order_acquire) != RankState::kLeft) return p;
  }
  return std::nullopt;
}

}  // namespace lockstep::comm
