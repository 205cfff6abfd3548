#pragma once

#include <chrono>
#include <memory>
#include <string_view>

#include "comm/communicator.h"

namespace lockstep::comm {

class MpiEnvironment;

// The communicator of this process. backend: "auto" (self at one rank, else mpi), "self" or "mpi".
// environment: of a process started by an MPI launcher, else null; then the world is this process.
// device: where to make it able to work, besides the CPU; "self" and "mpi" then take device memory
// through host memory (make_staged_communicator). Throws Error(kConfig) for a backend that does not
// exist or cannot serve this world: "self" with several ranks, "mpi" without an MPI launcher.
// Collective over all ranks.
std::unique_ptr<Communicator> make_communicator(std::string_view backend,
                                                const MpiEnvironment* environment,
                                                std::chrono::milliseconds timeout,
                                                core::DeviceRef device = {});

}  // namespace lockstep::comm
