#include "comm/mpi/node_segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>

#include "comm/mpi/available_memory.h"
#include "core/check.h"

namespace lockstep::comm {

namespace {

std::string segment_name() {
  static std::atomic<unsigned> counter{0};  // only makes names unique within the process
  return fmt::format("/lockstep-{}-{}", getpid(), counter.fetch_add(1));
}

std::int32_t reserve(int descriptor, std::size_t bytes) {
  int result = 0;
  do {
    result = posix_fallocate(descriptor, 0, static_cast<off_t>(bytes));
  } while (result == EINTR);
  return result;
}

void* map(int descriptor, std::size_t bytes, int protection) {
  return mmap(nullptr, bytes, protection, MAP_SHARED | MAP_POPULATE, descriptor, 0);
}

int open_peer(const SegmentHandle& handle, int flags) {
  if (handle.name[0] != '\0') return shm_open(handle.name, flags, 0600);
  return open(fmt::format("/proc/{}/fd/{}", handle.pid, handle.fd).c_str(), flags | O_CLOEXEC);
}

// Bytes that all ranks of the node are about to reserve.
std::uint64_t wanted(const HandleExchange& exchange, std::size_t bytes) {
  SegmentHandle wish;
  wish.bytes = bytes;
  std::uint64_t sum = 0;
  for (const SegmentHandle& handle : exchange(wish))
    sum += handle.bytes;
  return sum;
}

[[noreturn]] void fail_memory(std::size_t node_rank, const SegmentHandle& handle) {
  throw core::Error(
      core::ErrorKind::kOutOfMemory,
      fmt::format("cannot reserve {:.1f} MiB of memory shared between the ranks of this node (rank "
                  "{} on it): {}; free memory, use fewer ranks per node, or, in a container, raise "
                  "its memory limit and the size of /dev/shm (docker run --shm-size)",
                  static_cast<double>(handle.bytes) / 1048576.0, node_rank,
                  std::strerror(handle.error)));
}

}  // namespace

NodeSegment::NodeSegment(SegmentKind kind, std::size_t bytes, PeerAccess access, int node_rank,
                         const HandleExchange& exchange) {
  try {
    const std::vector<SegmentHandle> handles =
        exchange(create(kind, bytes, wanted(exchange, bytes)));
    for (std::size_t r = 0; r < handles.size(); ++r) {
      if (handles[r].error != 0) fail_memory(r, handles[r]);
    }
    SegmentHandle outcome;
    outcome.error = map_peers(handles, access, node_rank);
    const std::vector<SegmentHandle> outcomes = exchange(outcome);
    close_descriptor();
    for (std::size_t r = 0; r < outcomes.size(); ++r) {
      if (outcomes[r].error == 0) continue;
      throw core::Error(outcomes[r].error == ENOMEM ? core::ErrorKind::kOutOfMemory
                                                    : core::ErrorKind::kCommunication,
                        fmt::format("rank {} of this node cannot map its peers' memory: {}", r,
                                    std::strerror(outcomes[r].error)));
    }
  } catch (...) {
    close_descriptor();
    unmap();
    throw;
  }
}

NodeSegment::~NodeSegment() {
  unmap();
}

SegmentHandle NodeSegment::create(SegmentKind kind, std::size_t bytes, std::uint64_t node_bytes) {
  SegmentHandle handle;
  handle.pid = getpid();
  handle.bytes = bytes;
  if (bytes == 0) return handle;
  // Shared memory has no limit of its own: without this, reserving would take pages until the
  // kernel kills processes, this one or any other.
  if (node_bytes > available_memory()) {
    handle.error = ENOMEM;
    return handle;
  }
  if (kind == SegmentKind::kMemfd) {
    descriptor_ = memfd_create("lockstep", MFD_CLOEXEC);
  } else {
    name_ = segment_name();
    descriptor_ = shm_open(name_.c_str(), O_CREAT | O_EXCL | O_RDWR, 0600);
    std::memcpy(handle.name, name_.c_str(), std::min(name_.size(), sizeof(handle.name) - 1));
  }
  handle.fd = descriptor_;
  handle.error = descriptor_ < 0 ? errno : reserve(descriptor_, bytes);
  if (handle.error != 0) return handle;
  void* data = map(descriptor_, bytes, PROT_READ | PROT_WRITE);
  if (data == MAP_FAILED) {
    handle.error = errno;
  } else {
    own_ = {data, bytes};
  }
  return handle;
}

std::int32_t NodeSegment::map_peers(const std::vector<SegmentHandle>& handles, PeerAccess access,
                                    int node_rank) {
  const bool write = access == PeerAccess::kReadWrite;
  pieces_.resize(handles.size());
  for (std::size_t r = 0; r < handles.size(); ++r) {
    if (static_cast<int>(r) == node_rank) {
      pieces_[r] = own_;
      continue;
    }
    if (handles[r].bytes == 0) continue;
    const int descriptor = open_peer(handles[r], write ? O_RDWR : O_RDONLY);
    if (descriptor < 0) return errno;
    void* data = map(descriptor, handles[r].bytes, write ? PROT_READ | PROT_WRITE : PROT_READ);
    const int error = errno;
    close(descriptor);
    if (data == MAP_FAILED) return error;
    pieces_[r] = {data, handles[r].bytes};
  }
  return 0;
}

void NodeSegment::close_descriptor() noexcept {
  if (descriptor_ >= 0) close(descriptor_);
  descriptor_ = -1;
  if (!name_.empty()) shm_unlink(name_.c_str());
  name_.clear();
}

void NodeSegment::unmap() noexcept {
  for (const Mapping& piece : pieces_) {
    if (piece.data != nullptr && piece.data != own_.data) munmap(piece.data, piece.bytes);
  }
  pieces_.clear();
  if (own_.data != nullptr) munmap(own_.data, own_.bytes);
  own_ = {};
}

}  // namespace lockstep::comm
