#include "comm/make_communicator.h"

#include <utility>

#include "comm/device/staged_communicator.h"
#include "comm/mpi/mpi_communicator.h"
#include "comm/mpi/mpi_environment.h"
#include "comm/self/self_communicator.h"
#include "core/check.h"

namespace lockstep::comm {

namespace {

// The same on all ranks, whichever lacks it.
void require_nccl(Communicator& host, const NcclLibrary& library) {
  const auto problems = host.all_gather_bytes(library.why_absent, "nccl");
  for (std::size_t r = 0; r < problems.size(); ++r) {
    if (problems[r].empty()) continue;
    throw core::Error(
        core::ErrorKind::kConfig,
        fmt::format("communication backend nccl: rank {}: {}; or use backend.comm: mpi", r,
                    problems[r]));
  }
}

}  // namespace

std::unique_ptr<Communicator> make_host_communicator(std::string_view backend,
                                                     const MpiEnvironment* environment,
                                                     std::chrono::milliseconds timeout) {
  const int world_size = environment == nullptr ? 1 : environment->world_size();
  if (backend == "auto") backend = world_size == 1 ? "self" : "mpi";
  if (backend == "nccl") backend = environment == nullptr ? "self" : "mpi";
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

std::unique_ptr<Communicator> make_device_communicator(std::unique_ptr<Communicator> host,
                                                       std::string_view backend,
                                                       core::DeviceRef device,
                                                       const NcclOptions& nccl,
                                                       NcclSource library) {
  if (backend == "auto") backend = host->world_size() == 1 ? "self" : "nccl";
  if (backend != "nccl") {
    require_no_nccl_buffers(nccl, fmt::format("of {} rank{} over {}", host->world_size(),
                                              host->world_size() == 1 ? "" : "s", backend));
    return make_staged_communicator(std::move(host), device);
  }
  require_nccl(*host, library());
  return make_nccl_communicator(std::move(host), device, *library().api, nccl);
}

void require_no_nccl_buffers(const NcclOptions& nccl, std::string_view where) {
  if (nccl.buffers == NcclBuffers::kPlain) return;
  throw core::Error(
      core::ErrorKind::kConfig,
      fmt::format("backend.nccl_buffers is {}, which only NCCL has, and this is a run "
                  "{}; use plain, or backend.comm: nccl on GPUs",
                  name_of(nccl.buffers), where));
}

std::unique_ptr<Communicator> make_communicator(std::string_view backend,
                                                const MpiEnvironment* environment,
                                                std::chrono::milliseconds timeout,
                                                core::DeviceRef device, const NcclOptions& nccl) {
  if (device.on_cpu() && backend == "nccl") {
    throw core::Error(core::ErrorKind::kConfig,
                      "communication backend nccl needs backend.device: cuda; use mpi or auto");
  }
  auto host = make_host_communicator(backend, environment, timeout);
  if (device.on_cpu()) {
    require_no_nccl_buffers(nccl, "on the CPU");
    return host;
  }
  return make_device_communicator(std::move(host), backend, device, nccl);
}

}  // namespace lockstep::comm
