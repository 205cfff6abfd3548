#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/exchange/operation.h"
#include "comm/exchange/remote_peers.h"
#include "comm/mpi/mpi_check.h"

namespace lockstep::comm {

// RemotePeers over point-to-point messages. Between two ranks, in order: for each operation one
// record, then (unless the data travelled in the record) the chunks of the slice. Tags tell
// records, chunks and failures apart.
class MpiRemotePeers final : public RemotePeers {
 public:
  // ranks: the world ranks on other nodes. comm: of all ranks, used by nothing else.
  MpiRemotePeers(MpiComm comm, std::vector<int> ranks);
  ~MpiRemotePeers() override;

  void post(const Operation& operation) override;
  const Record* record(int rank, std::uint64_t index) override;
  std::uint64_t posted(int rank) const override;
  const std::byte* chunk(const Operation& operation, int rank, std::uint64_t chunk) override;
  bool sent(std::uint64_t index) override;
  void spread_failure(core::ErrorKind kind, const std::string& text) noexcept override;
  std::optional<core::Error> poll_failure() override;
  std::size_t internal_bytes() const override;

 private:
  static constexpr std::uint64_t kAhead = 2;  // chunks being received at a time

  // What is on its way from one rank.
  struct Peer {
    int rank = 0;
    std::unique_ptr<Record> incoming = std::make_unique<Record>();
    MPI_Request record_request = MPI_REQUEST_NULL;
    std::deque<Record> records;
    std::uint64_t first_record = 0;  // operation of records.front()

    std::uint64_t operation = ~std::uint64_t{0};  // whose chunks are being received
    std::uint64_t requested_chunks = 0;
    std::vector<std::byte> buffers[kAhead];
    MPI_Request requests[kAhead] = {MPI_REQUEST_NULL, MPI_REQUEST_NULL};
  };

  struct Outgoing {
    std::uint64_t index = 0;
    std::unique_ptr<Record> record;
    std::vector<MPI_Request> requests;
  };

  Peer& peer(int rank) { return peers_[slot_of_[static_cast<std::size_t>(rank)]]; }
  const Peer& peer(int rank) const { return peers_[slot_of_[static_cast<std::size_t>(rank)]]; }
  void receive_records(Peer& peer);
  void request_chunk(Peer& peer, const Operation& operation, std::uint64_t chunk);

  MpiComm comm_;
  int rank_;
  std::vector<Peer> peers_;
  std::vector<std::size_t> slot_of_;  // by world rank: its place in peers_
  std::deque<Outgoing> outgoing_;
  std::string failure_;  // being sent
  bool failed_ = false;
};

}  // namespace lockstep::comm
