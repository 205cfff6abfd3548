#include "coordinator/engine/config_check.h"

#include <filesystem>
#include <sstream>

#include "core/error.h"
#include "runtime/config/dump_config.h"
#include "runtime/config/load_config.h"
#include "runtime/data/token_file.h"
#include "runtime/plan/memory_plan.h"

namespace lockstep::coordinator {
namespace {

const char* kind_of(runtime::DeviceChoice choice) {
  switch (choice) {
    case runtime::DeviceChoice::kCpu:
      return "cpu";
    case runtime::DeviceChoice::kCuda:
      return "gpu";
    case runtime::DeviceChoice::kAuto:
      return "";
  }
  return "";
}

// What would end the run before its first step, told while somebody still looks at the answer.
void find_files(const runtime::Config& config, FilesToFind files) {
  if (files == FilesToFind::kNone) return;
  // Not every token is looked at: that takes as long as reading them.
  const auto open = [&](const std::vector<std::string>& sources, runtime::DataSplit split) {
    if (!sources.empty()) runtime::open_token_files(sources, config.data.token_type, split);
  };
  open(config.data.train, runtime::DataSplit::kTrain);
  open(config.data.validation, runtime::DataSplit::kValidation);
  const std::string& weights = config.init_from;
  if (files == FilesToFind::kAll && !weights.empty() && !std::filesystem::exists(weights)) {
    throw core::Error(core::ErrorKind::kData, "model.init_from: " + weights + " is not there");
  }
}

[[noreturn]] void refuse(const std::string& problems) {
  EngineError error(ErrorCode::kInvalidArgument, "INVALID_CONFIG", problems);
  std::istringstream lines(problems);
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty()) error.violates("run.config_yaml", line);
  }
  throw error;
}

}  // namespace

CheckedConfig check_config(const std::string& yaml, const std::string& source,
                           const std::vector<std::string>& overrides, int ranks,
                           FilesToFind files) {
  try {
    const runtime::Config config = runtime::parse_config(yaml, source, overrides);
    runtime::validate_for_world(config, ranks);
    find_files(config, files);
    const int threads = config.backend.threads > 0 ? config.backend.threads : 1;
    const runtime::MemoryPlan plan = runtime::plan_memory(config, ranks, threads);
    CheckedConfig checked;
    checked.name = config.run.name;
    checked.output = config.run.output;
    checked.device_kind = kind_of(config.backend.device);
    checked.resolved_config = runtime::to_yaml(config);
    checked.memory_bytes_per_rank = static_cast<std::int64_t>(plan.total());
    checked.memory_table = runtime::to_table(plan, nullptr);
    return checked;
  } catch (const core::Error& error) {
    refuse(error.what());
  }
}

bool holds_run(const std::string& output) {
  std::error_code error;
  return std::filesystem::file_size(output + "/metrics.jsonl", error) > 0 && !error;
}

}  // namespace lockstep::coordinator
