#include "comm/make_communicator.h"

#include <utility>

#include "comm/device/staged_communicator.h"
#include "comm/mpi/mpi_communicator.h"
#include "comm/mpi/mpi_environment.h"
#include "comm/nccl/nccl_library.h"
#include "comm/self/self_communicator.h"
#include "core/check.h"

namespace lockstep::comm {

namespace {

std::unique_ptr<Communicator> make_host_communicator(std::string_view backend,
                                                     const MpiEnvironment* environment,
                                                     std::chrono::milliseconds timeout) {
  const int world_size = environment == nullptr ? 1 : environment->world_size();
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
      fmt::format("unknown communication backend {}; expected auto, self, mpi or nccl", backend));
}

// The same on all ranks, whichever lacks it.
void require_nccl(Communicator& host) {
  const auto problems = host.all_gather_bytes(load_nccl().why_absent, "nccl");
  for (std::size_t r = 0; r < problems.size(); ++r) {
    if (problems[r].empty()) continue;
    throw core::Error(
        core::ErrorKind::kConfig,
        fmt::format("communication backend nccl: rank {}: {}; or use backend.comm: mpi", r,
                    problems[r]));
  }
}

}  // namespace

std::unique_ptr<Communicator> make_communicator(std::string_view backend,
                                                const MpiEnvironment* environment,
                                                std::chrono::milliseconds timeout,
                                                core::DeviceRef device, const NcclOptions& nccl) {
  const int world_size = environment == nullptr ? 1 : environment->world_size();
  const char* host_backend = environment == nullptr ? "self" : "mpi";
  if (backend == "auto") {
    backend = world_size == 1 ? "self" : device.on_cpu() ? "mpi" : "nccl";
  }
  if (backend != "nccl") {
    auto host = make_host_communicator(backend, environment, timeout);
    if (device.on_cpu()) return host;
    return make_staged_communicator(std::move(host), device);
  }
  if (device.on_cpu()) {
    throw core::Error(core::ErrorKind::kConfig,
                      "communication backend nccl needs backend.device: cuda; use mpi or auto");
  }
  auto host = make_host_communicator(host_backend, environment, timeout);
  require_nccl(*host);
  return make_nccl_communicator(std::move(host), device, *load_nccl().api, nccl);
}

}  // namespace lockstep::comm
