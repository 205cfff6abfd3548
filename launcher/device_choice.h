#pragma once

#include "comm/communicator.h"
#include "core/log.h"
#include "runtime/backend_device.h"
#include "runtime/config/config.h"

namespace lockstep::launcher {

// The device of this rank by backend.device, the same kind on all ranks, told on rank 0 with the
// reason where `auto` takes the CPU although there is a CUDA module. Collective. Throws
// Error(kConfig), on all ranks, where cuda was asked for and some rank has no device.
runtime::BackendDevice choose_device(const runtime::Config& config,
                                     comm::Communicator& communicator, core::Logger& log);

// Which rank of its host this process is, as the MPI launcher tells; {0, 1} outside one.
runtime::LocalRank local_rank(int world_size);

}  // namespace lockstep::launcher
