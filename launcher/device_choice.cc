#include "launcher/device_choice.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <string>
#include <vector>

#include "core/error.h"
#include "launcher/run_description.h"

namespace lockstep::launcher {

namespace {

int number_or(const char* variable, int otherwise) {
  const char* text = std::getenv(variable);
  return text == nullptr ? otherwise : std::max(0, std::atoi(text));
}

// Why `auto` does not even look for a device; empty: it does.
std::string why_cpu(const runtime::Config& config) {
  if (config.run.reproducible != runtime::Reproducible::kRanks) return "";
  return "run.reproducible ranks is not to be had on CUDA";
}

// Ranks of one host may share its devices where their traffic goes through host memory, or where
// NCCL has been told that they are on different hosts.
bool shares_devices(const runtime::Config& config) {
  return config.backend.comm == runtime::CommChoice::kMpi || std::getenv("NCCL_HOSTID") != nullptr;
}

runtime::BackendDevice choose_device(const runtime::Config& config,
                                     comm::Communicator& communicator,
                                     const DeviceLibraries& libraries, core::Logger& log) {
  if (config.backend.device == runtime::DeviceChoice::kCpu) return {};
  runtime::DeviceSearch search;
  search.why_not = why_cpu(config);
  if (search.why_not.empty()) {
    search = find_cuda_device(libraries.cuda(), local_rank(communicator.world_size()),
                              shares_devices(config));
  }
  const std::vector<std::string> missing =
      communicator.all_gather_bytes(search.why_not, "device search");
  if (runtime::uses_cuda(config.backend.device, missing)) return search.found;
  if (communicator.rank() == 0) {
    const auto first =
        std::find_if(missing.begin(), missing.end(), [](const auto& why) { return !why.empty(); });
    log.info("run", "backend.device auto: the CPU, since {}", *first);
  }
  return {};
}

comm::NcclOptions nccl_options(const runtime::Config& config, core::Logger& log,
                               const std::function<void(const std::string& cause)>& last_resort) {
  comm::NcclOptions options;
  options.repeatable = config.run.reproducible != runtime::Reproducible::kNone;
  options.buffers = config.backend.nccl_buffers;
  options.last_resort = [&log, last_resort](const std::string& cause) {
    constexpr auto kLost = core::ErrorKind::kCommunication;
    log.error("run", "{}: {}; this process ends here", core::describe(kLost), cause);
    if (last_resort) last_resort(cause);
    std::_Exit(static_cast<int>(kLost));
  };
  return options;
}

// With what this NCCL lacks for other buffers, so that nobody looks for it in vain.
void tell_of_nccl(const comm::NcclLibrary& library, const comm::NcclOptions& options,
                  core::Logger& log) {
  if (log.rank() != 0) return;
  std::string lacks;
  for (const auto buffers : {comm::NcclBuffers::kRegistered, comm::NcclBuffers::kSymmetric}) {
    if (lacks.empty()) lacks = comm::nccl_lacks(*library.api, buffers);
  }
  log.info("run", "NCCL {} ({}), backend.nccl_buffers {}{}",
           comm::nccl_version_text(library.version), library.path, comm::name_of(options.buffers),
           lacks.empty() ? "" : "; " + lacks);
}

// The stored configuration says so too.
void leave_layers_out(runtime::Config& config, core::Logger& log) {
  runtime::MetricsConfig& metrics = config.metrics;
  if (metrics.per_layer_every == 0 && metrics.histograms_every == 0) return;
  metrics.per_layer_every = metrics.histograms_every = 0;
  if (log.rank() != 0) return;
  log.info(
      "run",
      "metrics.per_layer_every and histograms_every are 0: layers are measured on the CPU only");
}

}  // namespace

runtime::LocalRank local_rank(int world_size) {
  if (world_size == 1) return {};
  return {number_or("OMPI_COMM_WORLD_LOCAL_RANK", number_or("SLURM_LOCALID", 0)),
          number_or("OMPI_COMM_WORLD_LOCAL_SIZE", number_or("SLURM_NTASKS_PER_NODE", world_size))};
}

RankBackend connect_ranks(runtime::Config& config, const comm::MpiEnvironment* environment,
                          core::Logger& log,
                          const std::function<void(const std::string& cause)>& last_resort) {
  const auto timeout = std::chrono::milliseconds(
      static_cast<std::int64_t>(config.parallel.timeout_seconds * 1000.0));
  return connect_ranks(
      config, comm::make_host_communicator(comm_name(config.backend.comm), environment, timeout),
      {}, log, last_resort);
}

RankBackend connect_ranks(runtime::Config& config, std::unique_ptr<comm::Communicator> host,
                          const DeviceLibraries& libraries, core::Logger& log,
                          const std::function<void(const std::string& cause)>& last_resort) {
  const comm::NcclOptions options = nccl_options(config, log, last_resort);
  RankBackend backend;
  backend.device = choose_device(config, *host, libraries, log);
  if (backend.device.on_cpu()) {
    if (config.backend.comm == runtime::CommChoice::kNccl) {
      throw core::Error(core::ErrorKind::kConfig,
                        "backend.comm is nccl, which moves memory of GPUs, but the run computes on "
                        "the CPU; use backend.comm: auto or mpi, or backend.device: cuda");
    }
    comm::require_no_nccl_buffers(options, "on the CPU");
    config.backend.device = runtime::DeviceChoice::kCpu;
    backend.communicator = std::move(host);
    return backend;
  }
  config.backend.device = runtime::DeviceChoice::kCuda;
  leave_layers_out(config, log);
  if (host->rank() == 0 && host->world_size() > 1 && shares_devices(config)) {
    log.info("run", "ranks of a host may share its devices ({})",
             config.backend.comm == runtime::CommChoice::kMpi ? "backend.comm mpi" : "NCCL_HOSTID");
  }
  backend.communicator =
      comm::make_device_communicator(std::move(host), comm_name(config.backend.comm),
                                     backend.device.device, options, libraries.nccl);
  if (backend.communicator->backend() == "nccl") tell_of_nccl(libraries.nccl(), options, log);
  return backend;
}

}  // namespace lockstep::launcher
