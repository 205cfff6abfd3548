#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace lockstep::comm {

// How a segment of one process is found by others. memfd segments are opened through the owner's
// /proc entry and vanish with their last mapping; named ones (POSIX shared memory) serve where
// that is forbidden, and are unlinked as soon as every peer has mapped them.
enum class SegmentKind : std::uint8_t { kMemfd, kNamed };

// Travels between ranks.
struct SegmentHandle {
  std::uint64_t bytes = 0;  // 0: this rank has no memory in the segment
  std::int32_t pid = 0;
  std::int32_t fd = -1;
  std::int32_t error = 0;  // errno of a failed creation or mapping
  char name[64] = {};      // of a named segment
};

// Gives every rank's handle, by node rank; may throw for all ranks alike if a rank is in error.
using HandleExchange = std::function<std::vector<SegmentHandle>(const SegmentHandle&)>;

// Memory shared on one node: each rank owns a piece (possibly empty), and maps its peers' pieces.
// What the node wants is compared with what it has, and pages are reserved before use
// (posix_fallocate), so that a lack of memory is an error here and not a kill or a SIGBUS later.
// Zero-filled.
class NodeSegment {
 public:
  enum class PeerAccess : std::uint8_t { kRead, kReadWrite };

  // Collective over the node. `exchange` is called three times: with the size wanted, with the
  // handle, and with the outcome of mapping. Throws Error(kOutOfMemory) if memory is short (on all
  // ranks), Error(kCommunication) if a peer's piece cannot be opened.
  NodeSegment(SegmentKind kind, std::size_t bytes, PeerAccess access, int node_rank,
              const HandleExchange& exchange);
  ~NodeSegment();
  NodeSegment(const NodeSegment&) = delete;
  NodeSegment& operator=(const NodeSegment&) = delete;

  std::byte* own() const { return static_cast<std::byte*>(own_.data); }
  std::size_t bytes() const { return own_.bytes; }
  // This process's view of a peer's piece (own() for this rank itself).
  std::byte* piece(int node_rank) const {
    return static_cast<std::byte*>(pieces_[static_cast<std::size_t>(node_rank)].data);
  }

 private:
  struct Mapping {
    void* data = nullptr;
    std::size_t bytes = 0;
  };

  SegmentHandle create(SegmentKind kind, std::size_t bytes, std::uint64_t node_bytes);
  std::int32_t map_peers(const std::vector<SegmentHandle>& handles, PeerAccess access,
                         int node_rank);
  void close_descriptor() noexcept;
  void unmap() noexcept;

  int descriptor_ = -1;
  std::string name_;  // still linked; empty otherwise
  Mapping own_;
  std::vector<Mapping> pieces_;
};

}  // namespace lockstep::comm
