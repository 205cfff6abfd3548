#include "launcher/run_description.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <string_view>

#include "core/error.h"
#include "core/hash.h"
#include "core/json_text.h"
#include "core/processors.h"
#include "launcher/device_choice.h"
#include "runtime/config/dump_config.h"
#include "runtime/version/build_info.h"

namespace lockstep::launcher {

namespace {

constexpr int kMostThreads = 4096;  // as backend.threads

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

int threads_from_environment() {
  const char* text = std::getenv("OMP_NUM_THREADS");
  if (text == nullptr || *text == '\0') return 0;
  // A list gives the threads of nested levels, of which there is one here.
  const std::string_view first = std::string_view(text).substr(0, std::string_view(text).find(','));
  int threads = 0;
  const auto [end, failure] = std::from_chars(first.data(), first.data() + first.size(), threads);
  const bool whole = failure == std::errc() && end == first.data() + first.size();
  if (!whole || threads < 1 || threads > kMostThreads) {
    throw core::Error(core::ErrorKind::kConfig,
                      fmt::format("the environment variable OMP_NUM_THREADS is '{}'; expected a "
                                  "number from 1 to {}: set it, unset it, or set backend.threads",
                                  text, kMostThreads));
  }
  return threads;
}

int threads_of_rank(const runtime::Config& config, int ranks_on_node) {
  if (config.backend.threads > 0) return config.backend.threads;
  const int asked = threads_from_environment();
  return asked > 0 ? asked : std::max(1, core::usable_cores() / std::max(1, ranks_on_node));
}

int threads_of_rank(const runtime::Config& config, comm::Communicator& communicator) {
  // Ranks that are bound to different cores of a node share nothing but the quota.
  const std::string host = host_name() + "\n";
  const std::string cores = host + core::affinity_text();
  int on_host = 0;
  int on_cores = 0;
  for (const std::string& other : communicator.all_gather_bytes(cores, "threads")) {
    on_host += other.starts_with(host) ? 1 : 0;
    on_cores += other == cores ? 1 : 0;
  }
  if (config.backend.threads > 0) return config.backend.threads;
  if (const int asked = threads_from_environment(); asked > 0) return asked;
  const double of_quota = std::ceil(core::cores_of_quota()) / on_host;
  const double of_affinity = core::cores_of_affinity() / on_cores;
  return std::max(1, static_cast<int>(std::min(of_quota, of_affinity)));
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
