#pragma once

#include <string>

#include "comm/communicator.h"
#include "models/parameter_table.h"
#include "runtime/config/config.h"
#include "runtime/device/backend_device.h"

namespace lockstep::launcher {

// The backend name that comm::make_communicator takes.
std::string comm_name(runtime::CommChoice choice);

int usable_cores();  // that this process may use

// OpenMP threads of this rank: backend.threads, else OMP_NUM_THREADS, else the cores this process
// may use divided by the ranks that share them; at least 1.
int threads_of_rank(const runtime::Config& config, int world_size);

// What the run is, for people: model size, ranks, threads, backend, batch.
std::string run_description(const runtime::Config& config, const comm::Communicator& communicator,
                            int threads, const models::ParameterTable& table,
                            const runtime::BackendDevice& device);

// The members of the `run` line of metrics.jsonl: version, build flags, instruction set, library
// versions, hosts, ranks, threads, config hash. Collective: hosts are gathered.
std::string run_line_fields(const runtime::Config& config, comm::Communicator& communicator,
                            int threads, const runtime::BackendDevice& device);

}  // namespace lockstep::launcher
