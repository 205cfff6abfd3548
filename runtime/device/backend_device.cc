#include "runtime/device/backend_device.h"

#include <fmt/format.h>

#include "core/error.h"

namespace lockstep::runtime {

namespace {

std::string describe(const core::DeviceRuntime& runtime, int ordinal) {
  core::DeviceProperties properties;
  core::check_device(runtime, runtime.properties(ordinal, &properties),
                     "asking for the properties of the device");
  return fmt::format("cuda:{}, {}", ordinal, properties.name);
}

}  // namespace

DeviceSearch find_cuda_device(const core::CudaModule& module, LocalRank local, bool shared) {
  const auto none = [](std::string why) { return DeviceSearch{{}, std::move(why)}; };
  if (module.description == nullptr) return none("CUDA is absent: " + module.why_absent);
  const core::DeviceRuntime& runtime = module.runtime();
  const std::string why = core::why_no_device(runtime);
  if (!why.empty()) return none("no CUDA device: " + why);
  int devices = 0;
  core::check_device(runtime, runtime.count(&devices), "counting devices");
  if (local.of > devices && !shared) {
    return none(fmt::format(
        "{} ranks on this host, and {} CUDA device{} visible to them; start as many ranks as "
        "there are devices, or let ranks share one with backend.comm: mpi",
        local.of, devices, devices == 1 ? " is" : "s are"));
  }
  const int ordinal = local.rank % devices;
  try {
    BackendDevice found;
    found.device = core::open_device(runtime, ordinal);
    found.bodies = &ops::cuda_op_bodies(module);
    found.decision = &cuda_decision_bodies(module);
    found.name = describe(runtime, ordinal);
    return {found, ""};
  } catch (const core::Error& error) {
    return none(error.what());
  }
}

bool uses_cuda(DeviceChoice choice, const std::vector<std::string>& missing) {
  if (choice == DeviceChoice::kCpu) return false;
  for (std::size_t rank = 0; rank < missing.size(); ++rank) {
    if (missing[rank].empty()) continue;
    if (choice == DeviceChoice::kAuto) return false;
    throw core::Error(core::ErrorKind::kConfig,
                      fmt::format("backend.device is cuda, and rank {} finds none: {}; see "
                                  "`lockstep version`, or run with backend.device: cpu",
                                  rank, missing[rank]));
  }
  return true;
}

ops::Determinism context_determinism(const Config& config) {
  return config.run.reproducible == Reproducible::kNone ? ops::Determinism::kNone
                                                        : ops::Determinism::kRun;
}

ops::OpContext make_op_context(const BackendDevice& device, const Config& config, int threads,
                               core::MemoryTracker& memory) {
  if (device.on_cpu()) return {threads, memory};
  return {threads, memory, device.device, *device.bodies, context_determinism(config)};
}

}  // namespace lockstep::runtime
