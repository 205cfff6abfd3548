#pragma once

#include <string>

#include "comm/communicator.h"
#include "models/parameter_table.h"
#include "runtime/config/config.h"
#include "runtime/device/backend_device.h"

namespace lockstep::launcher {

// The backend name that comm::make_communicator takes.
std::string comm_name(runtime::CommChoice choice);

// OMP_NUM_THREADS; 0: not set. Throws Error(kConfig) if it is not a number from 1 to 4096.
int threads_from_environment();

// OpenMP threads of a rank: backend.threads, else OMP_NUM_THREADS, else the cores that this process
// may use (core/processors.h) divided by the ranks that share them; at least 1.
int threads_of_rank(const runtime::Config& config, int ranks_on_node);
// The same, of this rank: who shares its cores is asked. Collective.
int threads_of_rank(const runtime::Config& config, comm::Communicator& communicator);

// What the run is, for people: model size, ranks, threads, backend, batch.
std::string run_description(const runtime::Config& config, const comm::Communicator& communicator,
                            int threads, const models::ParameterTable& table,
                            const runtime::BackendDevice& device);

// The members of the `run` line of metrics.jsonl: version, build flags, instruction set, library
// versions, hosts, ranks, threads, config hash. Collective: hosts are gathered.
std::string run_line_fields(const runtime::Config& config, comm::Communicator& communicator,
                            int threads, const runtime::BackendDevice& device);

}  // namespace lockstep::launcher
