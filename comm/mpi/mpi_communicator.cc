#include "comm/mpi/mpi_communicator.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "comm/exchange/exchange_communicator.h"
#include "comm/mpi/mpi_check.h"
#include "comm/mpi/mpi_node.h"
#include "comm/mpi/mpi_remote_peers.h"
#include "core/check.h"
#include "core/processors.h"

namespace lockstep::comm {

namespace {

// What a rank tells all others about where it runs.
struct Place {
  std::int32_t node = 0;  // lowest world rank of its node
  std::int32_t crowded = 0;
  char host[64] = {};
};

MpiComm duplicate_world() {
  MPI_Comm comm = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &comm), "MPI_Comm_dup");
  check_mpi(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  return MpiComm(comm);
}

MpiComm split_host(const MpiComm& world) {
  MPI_Comm comm = MPI_COMM_NULL;
  check_mpi(
      MPI_Comm_split_type(world.get(), MPI_COMM_TYPE_SHARED, world.rank(), MPI_INFO_NULL, &comm),
      "MPI_Comm_split_type");
  return MpiComm(comm);
}

// The host's ranks in `parts` contiguous blocks of nearly equal size.
MpiComm split_node(const MpiComm& host, int parts) {
  MPI_Comm comm = MPI_COMM_NULL;
  const int block = host.rank() * parts / host.size();
  check_mpi(MPI_Comm_split(host.get(), block, host.rank(), &comm), "MPI_Comm_split");
  return MpiComm(comm);
}

// Cores that the ranks of a host may use together: ranks may be bound to some each.
double cores_of_host(const MpiComm& host) {
  cpu_set_t own;
  if (sched_getaffinity(0, sizeof(own), &own) != 0) return core::usable_cores();
  std::array<std::uint64_t, sizeof(own) / sizeof(std::uint64_t)> words{};
  std::memcpy(words.data(), &own, sizeof(own));
  check_mpi(MPI_Allreduce(MPI_IN_PLACE, words.data(), static_cast<int>(words.size()), MPI_UINT64_T,
                          MPI_BOR, host.get()),
            "MPI_Allreduce");
  int cores = 0;
  for (const std::uint64_t word : words)
    cores += std::popcount(word);
  return std::min<double>(cores, core::cores_of_quota());
}

std::vector<Place> gather_places(const MpiComm& world, const MpiComm& host, const MpiComm& node) {
  Place place;
  std::int32_t rank = world.rank();
  check_mpi(MPI_Allreduce(&rank, &place.node, 1, MPI_INT32_T, MPI_MIN, node.get()),
            "MPI_Allreduce");
  place.crowded = host.size() > cores_of_host(host) ? 1 : 0;
  gethostname(place.host, sizeof(place.host) - 1);
  std::vector<Place> places(static_cast<std::size_t>(world.size()));
  check_mpi(MPI_Allgather(&place, sizeof(place), MPI_BYTE, places.data(), sizeof(place), MPI_BYTE,
                          world.get()),
            "MPI_Allgather");
  return places;
}

std::unique_ptr<MpiNode> join_node(const MpiComm& node, const std::vector<int>& world_ranks,
                                   bool named_segments) {
  if (!named_segments) {
    try {
      return std::make_unique<MpiNode>(node, SegmentKind::kMemfd, world_ranks);
    } catch (const core::Error& error) {
      // All ranks of the node get the same error: some rank may not open its peers' descriptors.
      if (error.kind() != core::ErrorKind::kCommunication) throw;
    }
  }
  return std::make_unique<MpiNode>(node, SegmentKind::kNamed, world_ranks);
}

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(const MpiOptions& options) {
  MpiComm world = duplicate_world();
  Group group;
  group.rank = world.rank();
  group.world_size = world.size();
  std::unique_ptr<MpiNode> node;
  std::vector<int> remote_ranks;
  {
    const MpiComm host = split_host(world);
    const MpiComm node_comm = split_node(host, std::min(options.pretended_nodes, host.size()));
    const std::vector<Place> places = gather_places(world, host, node_comm);
    const Place& own = places[static_cast<std::size_t>(group.rank)];
    std::vector<int> node_ranks;
    for (int r = 0; r < group.world_size; ++r) {
      const Place& place = places[static_cast<std::size_t>(r)];
      const bool here = place.node == own.node;
      group.node_rank.push_back(here ? static_cast<int>(node_ranks.size()) : -1);
      (here ? node_ranks : remote_ranks).push_back(r);
      group.hosts.emplace_back(place.host);
    }
    group.crowded = own.crowded != 0;
    node = join_node(node_comm, node_ranks, options.named_segments);
  }
  std::unique_ptr<RemotePeers> remote;
  if (!remote_ranks.empty()) {
    remote = std::make_unique<MpiRemotePeers>(std::move(world), std::move(remote_ranks));
  }
  return std::make_unique<ExchangeCommunicator>("mpi", options.timeout, std::move(group),
                                                std::move(node), std::move(remote));
}

}  // namespace lockstep::comm
