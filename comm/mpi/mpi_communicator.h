#pragma once

#include <chrono>
#include <memory>

#include "comm/communicator.h"

namespace lockstep::comm {

struct MpiOptions {
  std::chrono::milliseconds timeout{600'000};
  // Treats the ranks of each host as if they ran on this many hosts, in contiguous blocks, so that
  // the way between nodes can be tested on one machine.
  int pretended_nodes = 1;
  // Skips memfd segments, as if other processes' /proc entries could not be opened.
  bool named_segments = false;
};

// The ranks of MPI_COMM_WORLD; collective over it. MPI must be initialised (MpiEnvironment). Ranks
// of one node share memory and call no MPI after this; between nodes slices travel as messages.
std::unique_ptr<Communicator> make_mpi_communicator(const MpiOptions& options);

}  // namespace lockstep::comm
