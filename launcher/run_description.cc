#include "launcher/run_description.h"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "core/hash.h"
#include "core/json_text.h"
#include "launcher/device_choice.h"
#include "runtime/config/dump_config.h"
#include "runtime/version/build_info.h"

namespace lockstep::launcher {

namespace {

int positive_number(const char* variable) {
  const char* text = std::getenv(variable);
  return text == nullptr ? 0 : std::max(0, std::atoi(text));
}

std::string host_name() {
  char host[256] = {};
  gethostname(host, sizeof(host) - 1);
  return host;
}

}  // namespace

std::string comm_name(runtime::CommChoice choice) {
  switch (choice) {
    case runtime::CommChoice::kAuto:
      return "auto";
    case runtime::CommChoice::kSelf:
      return "self";
    case runtime::CommChoice::kMpi:
      return "mpi";
    case runtime::CommChoice::kNccl:
      return "nccl";
  }
  return "auto";
}

int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

int threads_of_rank(const runtime::Config& config, int world_size) {
  if (config.backend.threads > 0) return config.backend.threads;
  const int asked = positive_number("OMP_NUM_THREADS");
  if (asked > 0) return asked;
  const int cores = usable_cores();
  const long on_node = sysconf(_SC_NPROCESSORS_ONLN);
  // A process bound to a part of the cores has them for itself.
  if (cores < on_node) return cores;
  return std::max(1, cores / std::max(1, local_rank(world_size).of));
}

std::string run_description(const runtime::Config& config, const comm::Communicator& communicator,
                            int threads, const models::ParameterTable& table,
                            const runtime::BackendDevice& device) {
  return fmt::format(
      "{}: {:.2f} M parameters in {}, {} rank{} ({}) x {} thread{} on {}, ZeRO stage {}, batch {} "
      "= "
      "{} rank{} x micro {} x {} round{}, {} steps",
      config.run.name, static_cast<double>(table.total_elements()) / 1e6,
      core::name_of(config.precision.compute), communicator.world_size(),
      communicator.world_size() == 1 ? "" : "s", communicator.backend(), threads,
      threads == 1 ? "" : "s", device.name, config.parallel.zero_stage, config.batch.global,
      communicator.world_size(), communicator.world_size() == 1 ? "" : "s", config.batch.micro,
      runtime::accumulation_rounds(config, communicator.world_size()),
      runtime::accumulation_rounds(config, communicator.world_size()) == 1 ? "" : "s",
      config.train.steps);
}

std::string run_line_fields(const runtime::Config& config, comm::Communicator& communicator,
                            int threads, const runtime::BackendDevice& device) {
  using core::json_string;
  const runtime::BuildInfo build = runtime::build_info();
  const auto list = [](const std::vector<std::string>& words) {
    std::string text = "[";
    for (std::size_t i = 0; i < words.size(); ++i) {
      text += (i == 0 ? "" : ",") + json_string(words[i]);
    }
    return text + "]";
  };
  std::string libraries = "{";
  for (const auto& [name, version] : build.libraries) {
    libraries += fmt::format("{}{}:{}", libraries.size() == 1 ? "" : ",", json_string(name),
                             json_string(version));
  }
  return fmt::format(
      R"("version":{},"format":1,"name":{},"compiler":{},"flags":{},"isa":{},"libraries":{}}},)"
      R"("hosts":{},"ranks":{},"threads":{},"device":{},"comm":{},"config_fingerprint":"{}")",
      json_string(build.version), json_string(config.run.name), json_string(build.compiler),
      json_string(build.flags), list(build.instruction_sets), libraries,
      list(communicator.all_gather_bytes(host_name(), "hosts")), communicator.world_size(), threads,
      json_string(device.name), json_string(std::string(communicator.backend())),
      core::to_hex(runtime::fingerprint(config)));
}

}  // namespace lockstep::launcher
