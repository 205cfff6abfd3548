#pragma once

#include <chrono>
#include <memory>
#include <string_view>

#include "comm/communicator.h"
#include "comm/nccl/nccl_communicator.h"
#include "comm/nccl/nccl_library.h"
#include "comm/nccl/nccl_options.h"
#include "core/device_runtime.h"

namespace lockstep::comm {

class MpiEnvironment;

using NcclSource = const NcclLibrary& (*)();

// The communicator of this process. backend: "self", "mpi", "nccl", or "auto": self at one rank,
// else nccl where there is a device, else mpi. environment: of a process started by an MPI
// launcher, else null; then the world is this process. device: which it serves besides the CPU;
// "self" and "mpi" take its memory through that of the host (make_staged_communicator), "nccl"
// needs one, of CUDA. nccl: for that backend; buffers other than plain are Error(kConfig) with any
// other. Throws Error(kConfig) for a backend that does not exist or cannot serve this world: "self"
// with several ranks, "mpi" without an MPI launcher, "nccl" without a device or, on any rank,
// without the library; and what make_nccl_communicator throws. Collective over all ranks.
std::unique_ptr<Communicator> make_communicator(std::string_view backend,
                                                const MpiEnvironment* environment,
                                                std::chrono::milliseconds timeout,
                                                core::DeviceRef device = {},
                                                const NcclOptions& nccl = {});

// The same in two steps, for ranks that first have to agree on their devices: the host's
// communicator on which that of a backend stands ("self" outside of an MPI launcher and for "self",
// else "mpi"), and what that becomes for a device of each rank. library: asked for only where NCCL
// is taken; tests put another in its place.
std::unique_ptr<Communicator> make_host_communicator(std::string_view backend,
                                                     const MpiEnvironment* environment,
                                                     std::chrono::milliseconds timeout);
std::unique_ptr<Communicator> make_device_communicator(std::unique_ptr<Communicator> host,
                                                       std::string_view backend,
                                                       core::DeviceRef device,
                                                       const NcclOptions& nccl,
                                                       NcclSource library = load_nccl);

// Throws Error(kConfig) where `nccl` asks for buffers that a run without nccl does not have; where:
// what it is instead ("on the CPU").
void require_no_nccl_buffers(const NcclOptions& nccl, std::string_view where);

}  // namespace lockstep::comm
