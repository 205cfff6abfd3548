#include "comm/make_communicator.h"

#include <utility>

#include "comm/device/staged_communicator.h"
#include "comm/mpi/mpi_communicator.h"
#include "comm/mpi/mpi_environment.h"
#include "comm/self/self_communicator.h"
#include "core/check.h"

namespace lockstep::comm {

namespace {

std::unique_ptr<Communicator> make_host_communicator(std::string_view backend,
                                                     const MpiEnvironment* environment,
                                                     std::chrono::milliseconds timeout) {
  const int world_size = environment == nullptr ? 1 : environment->world_size();
  if (backend == "auto") backend = world_size == 1 ? "self" : "mpi";
  if (backend == "self") {
    if (world_size == 1) return make_self_communicator(timeout);
    throw core::Error(
        core::ErrorKind::kConfig,
        fmt::format("communication backend self serves one rank, this world has {}; use mpi",
                    world_size));
  }
  if (backend == "mpi") {
    if (environment != nullptr) return make_mpi_communicator({.timeout = timeout});
    throw core::Error(core::ErrorKind::kConfig,
                      "communication backend mpi needs a process started by mpirun or srun; use "
                      "--ranks N, mpirun, or backend self");
  }
  throw core::Error(
      core::ErrorKind::kConfig,
      fmt::format("unknown communication backend {}; expected auto, self or mpi", backend));
}

}  // namespace

std::unique_ptr<Communicator> make_communicator(std::string_view backend,
                                                const MpiEnvironment* environment,
                                                std::chrono::milliseconds timeout,
                                                core::DeviceRef device) {
  auto host = make_host_communicator(backend, environment, timeout);
  if (device.on_cpu()) return host;
  return make_staged_communicator(std::move(host), device);
}

}  // namespace lockstep::comm
