#pragma once

#include <functional>
#include <memory>
#include <string>

#include "comm/make_communicator.h"
#include "comm/mpi/mpi_environment.h"
#include "core/cuda_module.h"
#include "core/log.h"
#include "runtime/config/config.h"
#include "runtime/device/backend_device.h"

namespace lockstep::launcher {

// Where this rank computes and how it reaches the others.
struct RankBackend {
  runtime::BackendDevice device;
  std::unique_ptr<comm::Communicator> communicator;
};

// By backend.device and backend.comm, the same kind on all ranks; config.backend.device becomes
// what was chosen. Told on rank 0: why `auto` takes the CPU, that ranks share devices, which NCCL
// it is. Collective over the ranks of `environment` (null: this process alone). Throws
// Error(kConfig), on all ranks, where some rank lacks what was asked for.
//
// last_resort ends this process when its device is stuck in a collective of a failed group
// (comm::NcclOptions): called with the cause, from a thread of its own, after it was logged. Left
// out, or when it returns, the process exits at once, with the code of a lost rank.
RankBackend connect_ranks(runtime::Config& config, const comm::MpiEnvironment* environment,
                          core::Logger& log,
                          const std::function<void(const std::string& cause)>& last_resort = {});

// Where what may be absent comes from: this machine, or stand-ins of a test.
struct DeviceLibraries {
  core::CudaModule (*cuda)() = core::load_cuda_module;
  comm::NcclSource nccl = comm::load_nccl;
};

// The same for ranks that reach each other through `host` (comm::make_host_communicator).
RankBackend connect_ranks(runtime::Config& config, std::unique_ptr<comm::Communicator> host,
                          const DeviceLibraries& libraries, core::Logger& log,
                          const std::function<void(const std::string& cause)>& last_resort = {});

// Which rank of its host this process is, as the MPI launcher tells; {0, 1} outside one.
runtime::LocalRank local_rank(int world_size);

}  // namespace lockstep::launcher
