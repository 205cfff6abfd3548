#include "launcher/device_choice.h"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "core/cuda_module.h"
#include "core/error.h"

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

}  // namespace

runtime::LocalRank local_rank(int world_size) {
  if (world_size == 1) return {};
  return {number_or("OMPI_COMM_WORLD_LOCAL_RANK", number_or("SLURM_LOCALID", 0)),
          number_or("OMPI_COMM_WORLD_LOCAL_SIZE", number_or("SLURM_NTASKS_PER_NODE", world_size))};
}

runtime::BackendDevice choose_device(const runtime::Config& config,
                                     comm::Communicator& communicator, core::Logger& log) {
  using runtime::DeviceChoice;
  const DeviceChoice choice = config.backend.device;
  if (choice == DeviceChoice::kCpu) return {};
  runtime::DeviceSearch search;
  search.why_not = why_cpu(config);
  if (search.why_not.empty()) {
    const bool shared = config.backend.comm == runtime::CommChoice::kMpi;
    search = find_cuda_device(core::load_cuda_module(), local_rank(communicator.world_size()),
                              shared);
  }
  const std::vector<std::string> missing =
      communicator.all_gather_bytes(search.why_not, "device search");
  if (runtime::uses_cuda(choice, missing)) return search.found;
  if (communicator.rank() == 0) {
    const auto first =
        std::find_if(missing.begin(), missing.end(), [](const auto& why) { return !why.empty(); });
    log.info("run", "backend.device auto: the CPU, since {}", *first);
  }
  return {};
}

}  // namespace lockstep::launcher
