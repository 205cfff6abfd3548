#include "comm/mpi/mpi_remote_peers.h"

#include <chrono>
#include <thread>
#include <utility>

#include "core/check.h"

namespace lockstep::comm {

namespace {

constexpr int kRecordTag = 1;
constexpr int kChunkTag = 2;
constexpr int kFailureTag = 3;

// How long a failing rank stays to see its message off. Small messages leave at once.
constexpr std::chrono::milliseconds kFarewell{100};

bool test(MPI_Request& request) {
  int done = 0;
  check_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
  return done != 0;
}

bool test_all(std::vector<MPI_Request>& requests) {
  int done = 0;
  check_mpi(
      MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE),
      "MPI_Testall");
  return done != 0;
}

void cancel(MPI_Request& request) {
  if (request == MPI_REQUEST_NULL) return;
  MPI_Cancel(&request);
  MPI_Request_free(&request);
}

}  // namespace

MpiRemotePeers::MpiRemotePeers(MpiComm comm, std::vector<int> ranks)
    : comm_(std::move(comm)),
      rank_(comm_.rank()),
      slot_of_(static_cast<std::size_t>(comm_.size()), ranks.size()) {
  for (const int r : ranks) {
    slot_of_[static_cast<std::size_t>(r)] = peers_.size();
    peers_.emplace_back();
    peers_.back().rank = r;
  }
  for (Peer& p : peers_) {
    check_mpi(MPI_Irecv(p.incoming.get(), sizeof(Record), MPI_BYTE, p.rank, kRecordTag, comm_.get(),
                        &p.record_request),
              "MPI_Irecv");
  }
}

MpiRemotePeers::~MpiRemotePeers() {
  int finalized = 0;
  if (MPI_Finalized(&finalized) != MPI_SUCCESS || finalized != 0) return;
  for (Peer& p : peers_) {
    cancel(p.record_request);
    for (MPI_Request& request : p.requests)
      cancel(request);
  }
  if (failed_) comm_.abandon();
}

void MpiRemotePeers::post(const Operation& operation) {
  Outgoing out;
  out.index = operation.index;
  out.record = std::make_unique<Record>(operation.record);
  const auto send = [&](const void* data, std::size_t bytes, int to, int tag) {
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(MPI_Isend(data, static_cast<int>(bytes), MPI_BYTE, to, tag, comm_.get(), &request),
              "MPI_Isend");
    out.requests.push_back(request);
  };
  for (const Peer& p : peers_) {
    send(out.record.get(), sizeof(Record), p.rank, kRecordTag);
    if (operation.record.source == Source::kInline) continue;
    const std::byte* slice =
        operation.input + operation.offset(rank_, p.rank) * operation.element_bytes;
    for (std::uint64_t c = 0; c < operation.chunks; ++c) {
      const std::size_t elements = operation.chunk_length(rank_, p.rank, c);
      if (elements == 0) break;
      send(slice + operation.chunk_begin(c) * operation.element_bytes,
           elements * operation.element_bytes, p.rank, kChunkTag);
    }
  }
  outgoing_.push_back(std::move(out));
}

void MpiRemotePeers::receive_records(Peer& p) {
  while (test(p.record_request)) {
    p.records.push_back(*p.incoming);
    check_mpi(MPI_Irecv(p.incoming.get(), sizeof(Record), MPI_BYTE, p.rank, kRecordTag, comm_.get(),
                        &p.record_request),
              "MPI_Irecv");
  }
}

const Record* MpiRemotePeers::record(int rank, std::uint64_t index) {
  Peer& p = peer(rank);
  while (p.first_record < index && !p.records.empty()) {  // read already
    p.records.pop_front();
    ++p.first_record;
  }
  if (p.records.empty()) receive_records(p);
  if (p.first_record + p.records.size() <= index) return nullptr;
  return &p.records[index - p.first_record];
}

std::uint64_t MpiRemotePeers::posted(int rank) const {
  const Peer& p = peer(rank);
  return p.first_record + p.records.size();
}

void MpiRemotePeers::request_chunk(Peer& p, const Operation& operation, std::uint64_t chunk) {
  const std::size_t bytes = operation.chunk_length(p.rank, rank_, chunk) * operation.element_bytes;
  if (bytes == 0) return;
  std::vector<std::byte>& buffer = p.buffers[chunk % kAhead];
  if (buffer.size() < bytes) buffer.resize(bytes);
  check_mpi(MPI_Irecv(buffer.data(), static_cast<int>(bytes), MPI_BYTE, p.rank, kChunkTag,
                      comm_.get(), &p.requests[chunk % kAhead]),
            "MPI_Irecv");
}

const std::byte* MpiRemotePeers::chunk(const Operation& operation, int rank, std::uint64_t chunk) {
  Peer& p = peer(rank);
  if (p.operation != operation.index) {
    p.operation = operation.index;
    p.requested_chunks = 0;
  }
  while (p.requested_chunks < std::min(operation.chunks, chunk + kAhead))
    request_chunk(p, operation, p.requested_chunks++);
  return test(p.requests[chunk % kAhead]) ? p.buffers[chunk % kAhead].data() : nullptr;
}

bool MpiRemotePeers::sent(std::uint64_t index) {
  while (!outgoing_.empty() && test_all(outgoing_.front().requests))
    outgoing_.pop_front();
  return outgoing_.empty() || outgoing_.front().index > index;
}

void MpiRemotePeers::spread_failure(core::ErrorKind kind, const std::string& text) noexcept {
  failed_ = true;
  failure_ = static_cast<char>('0' + static_cast<int>(kind)) + text;
  std::vector<MPI_Request> requests(peers_.size(), MPI_REQUEST_NULL);
  for (std::size_t i = 0; i < peers_.size(); ++i) {
    MPI_Isend(failure_.data(), static_cast<int>(failure_.size()), MPI_BYTE, peers_[i].rank,
              kFailureTag, comm_.get(), &requests[i]);
  }
  const auto deadline = std::chrono::steady_clock::now() + kFarewell;
  int done = 0;
  while (done == 0 && std::chrono::steady_clock::now() < deadline) {
    if (MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done,
                    MPI_STATUSES_IGNORE) != MPI_SUCCESS) {
      return;
    }
    std::this_thread::yield();
  }
}

std::optional<core::Error> MpiRemotePeers::poll_failure() {
  int found = 0;
  MPI_Status status;
  check_mpi(MPI_Iprobe(MPI_ANY_SOURCE, kFailureTag, comm_.get(), &found, &status), "MPI_Iprobe");
  if (found == 0) return std::nullopt;
  int bytes = 0;
  check_mpi(MPI_Get_count(&status, MPI_BYTE, &bytes), "MPI_Get_count");
  std::string message(static_cast<std::size_t>(bytes), '\0');
  check_mpi(MPI_Recv(message.data(), bytes, MPI_BYTE, status.MPI_SOURCE, kFailureTag, comm_.get(),
                     MPI_STATUS_IGNORE),
            "MPI_Recv");
  failed_ = true;
  return core::Error(static_cast<core::ErrorKind>(message.at(0) - '0'), message.substr(1));
}

std::size_t MpiRemotePeers::internal_bytes() const {
  std::size_t bytes = 0;
  for (const Peer& p : peers_) {
    for (const auto& buffer : p.buffers)
      bytes += buffer.size();
  }
  return bytes;
}

}  // namespace lockstep::comm
